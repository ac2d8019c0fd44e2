"""Recall of reference words by how often training had them."""

import numpy as np
import pytest

from nmt.frequency import frequency_class, recall_by_class, recalled, word_counts
from nmt.scoring import Bootstrap

CLASSES = [1, 3]
COUNTS = word_counts(["The cat, the dog.", "the end"], "en")


def test_words_are_counted_without_case_and_marks() -> None:
    """Punctuation is no word."""
    assert COUNTS == {"the": 3, "cat": 1, "dog": 1, "end": 1}
    assert word_counts(["我喜欢狗。"], "zh") == {"我": 1, "喜欢": 1, "狗": 1}


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 1), (3, 2), (99, 2)])
def test_classes(count: int, expected: int) -> None:
    """A class begins at its lower bound; before the first lie the words that are rarer."""
    assert frequency_class(count, CLASSES) == expected


def test_recall_by_hand() -> None:
    """Each occurrence in the reference needs one in the hypothesis."""
    table = recalled(["The cat sat.", ""], ["the cat and the bird", "dog!"], COUNTS, CLASSES, "en")
    np.testing.assert_array_equal(table, [[[2, 0], [1, 1], [2, 1]], [[0, 0], [1, 0], [0, 0]]])
    rows = recall_by_class(table, CLASSES, Bootstrap(100, 0.95, 1))
    assert [(row["low"], row["high"], row["words"]) for row in rows] == [(0, 0, 2), (1, 2, 2), (3, None, 2)]
    assert [row["recall"] for row in rows] == [0.0, 0.5, 0.5]
    assert (rows[1]["recall_low"], rows[1]["recall_high"]) == (0.0, 1.0)


def test_a_class_without_words_has_no_recall() -> None:
    """And no interval, also in samples that miss its only sentence."""
    table = recalled(["the"] * 3, ["the"] * 3, COUNTS, CLASSES, "en")
    empty, _, full = recall_by_class(table, CLASSES, Bootstrap(100, 0.95, 1))
    assert empty["recall"] is empty["recall_low"] is empty["recall_high"] is None
    assert full["recall"] == full["recall_low"] == 1.0


def test_a_class_that_no_sample_has_met_has_its_value_for_an_interval() -> None:
    """One sample may miss the only sentence with such a word: the recall is known nevertheless."""
    table = recalled(["the"] * 9 + ["cat"], ["the"] * 9 + ["cat"], COUNTS, CLASSES, "en")
    missed = [seed for seed in range(20) if Bootstrap(1, 0.95, seed).totals(table.reshape(10, -1))[0, 2] == 0]
    assert missed
    row = recall_by_class(table, CLASSES, Bootstrap(1, 0.95, missed[0]))[1]
    assert row["recall"] == row["recall_low"] == row["recall_high"] == 1.0

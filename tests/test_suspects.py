"""The test sentences one by one, and the list of those worth reading."""

from typing import Any

import numpy as np
import pytest

from nmt import suspects
from nmt.config import AnalyzeAttention
from nmt.decodings import Decodings
from nmt.readings import Pair
from nmt.words import segment

SETTINGS = AnalyzeAttention(heatmaps=0, link_threshold=0.3, uncovered=0.2, overcovered=1.4, worst_share=0.25)
SOURCE = segment(["▁cats", "▁eat", "▁fish", ".", "</s>"], "en")
GOOD = segment(["▁cats", "▁eat", "▁fish", ".", "</s>"], "de")
BAD = segment(["▁eat", "▁eat", "▁eat", "</s>"], "de")
SHARP = np.eye(5)
SPREAD = np.full((4, 5), 0.2)
ONE_WORD = np.array([[0.0, 1.0, 0.0, 0.0, 0.0]] * 4)


def decoded(pairs: list[tuple[Any, np.ndarray | None]]) -> Decodings:
    """Hypotheses of the one source, with attention."""
    made = [
        Pair(SOURCE, target, attention, {name: np.zeros((len(target.shares), 4)) for name in ("erasure", "gradient")})
        for target, attention in pairs
    ]
    attends = pairs[0][1] is not None
    return Decodings(made, [True] * len(made), [-0.5] * len(made), attends)


def records(count: int) -> list[dict[str, Any]]:
    """Test sentences."""
    return [{"id": str(i), "source": "raw", "references": ["cats eat fish."]} for i in range(count)]


def test_signs() -> None:
    """A word that nobody looks at, one looked at by all, a pair of words written twice, and a lost sentence."""
    pairs = [(GOOD, SHARP), (BAD, ONE_WORD), (BAD, SPREAD), (GOOD, SHARP)]
    read = suspects.read_sentences(decoded(pairs), records(4), "de", SETTINGS)
    assert [one.uncovered for one in read] == [[], ["cats", "fish"], [], []]
    assert [one.overcovered for one in read] == [[], ["eat"], [], []]
    assert [one.repeated for one in read] == [[], ["eat eat"], ["eat eat"], []]
    assert [one.both_fail for one in read] == [False, False, True, False]
    assert [one.entropy for one in read] == pytest.approx([0.0, 0.0, np.log(5), 0.0])
    assert [one.chrf > 99 for one in read] == [True, False, False, True]
    assert suspects.counts(read) == {"uncovered": 1, "overcovered": 1, "repeated": 2, "both_fail": 1}
    rows = suspects.listing(records(4), read)
    assert [(row["id"], row["both_fail"]) for row in rows] == [("2", "yes"), ("1", "")]
    assert tuple(rows[0]) == suspects.COLUMNS
    assert (rows[1]["uncovered"], rows[1]["repeated"], rows[1]["hypothesis"]) == ("cats fish", "eat eat", "eat eat eat")


def test_without_attention_there_is_repetition() -> None:
    """And nothing that would need weights."""
    read = suspects.read_sentences(decoded([(BAD, None), (GOOD, None)]), records(2), "de", SETTINGS)
    assert suspects.counts(read) == {"uncovered": 0, "overcovered": 0, "repeated": 1, "both_fail": 0}
    assert [one["attention"] for one in suspects.word_records(records(2), read)] == [None, None]
    assert [row["entropy"] for row in suspects.listing(records(2), read)] == [""]


def test_word_records() -> None:
    """One object a sentence: words, matrices between them, rounded and without a negative zero."""
    pair = Pair(SOURCE, GOOD, SHARP, {"erasure": np.full((5, 4), -1e-9), "gradient": np.full((5, 4), 0.123456)})
    read = suspects.read_sentences(Decodings([pair], [True], [-0.25], True), records(1), "de", SETTINGS)
    (record,) = suspects.word_records(records(1), read)
    assert list(record) == "id source target attention erasure gradient entropy chrf score".split()
    assert record["source"] == record["target"] == ["cats", "eat", "fish", "."]
    assert record["attention"] == np.eye(4, 5).tolist()
    assert str(record["erasure"]) == str([[0.0] * 4] * 4)
    assert record["gradient"] == [[0.1235] * 4] * 4
    assert (record["entropy"], record["chrf"], record["score"]) == (0.0, 100.0, -0.25)


def test_an_empty_translation() -> None:
    """It has no entropy, and all of its source is uncovered."""
    nothing = segment(["</s>"], "de")
    pairs = [(nothing, np.eye(1, 5)), (GOOD, SHARP)]
    read = suspects.read_sentences(decoded(pairs), records(2), "de", SETTINGS)
    assert read[0].entropy is None
    assert read[0].uncovered == ["cats", "eat", "fish"]
    assert next(suspects.word_records(records(2), read))["attention"] == []

"""Sentences as numbers."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from nmt.fingerprints import codes, duplicated, fingerprints

texts = st.lists(st.sampled_from(["", "a", "b", "ä", "字", "字 "]) | st.text("ab", max_size=3), max_size=40)


@given(texts)
def test_codes_are_equal_where_the_texts_are(lines: list[str]) -> None:
    """Dense, and as many as there are different texts."""
    found = codes(fingerprints(lines))
    assert sorted(set(found.tolist())) == list(range(len(set(lines))))
    assert len({*zip(lines, found.tolist(), strict=True)}) == len(set(lines))


@given(texts)
def test_the_first_of_equal_texts_is_no_duplicate(lines: list[str]) -> None:
    """As pandas has it."""
    expected = pd.Series(lines, dtype=object).duplicated().to_list()
    assert duplicated(fingerprints(lines)).tolist() == expected


def test_both_halves_count() -> None:
    """Fingerprints with one half in common are different ones."""
    prints = np.array([[1, 2], [1, 3], [2, 2], [1, 2], [3, 1]], np.uint64)
    assert duplicated(prints).tolist() == [False, False, False, True, False]
    assert len(set(codes(prints).tolist())) == 4

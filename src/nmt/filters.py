"""Which training pairs are not worth learning from, and why. Dev and test are never filtered."""

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from nmt.config import TrainFilters
from nmt.corpus import UNSEGMENTED
from nmt.fingerprints import duplicated

REASONS = ("empty", "too_long", "length_ratio", "wrong_script", "identical", "duplicate")
"""In the order in which they are tried; a pair counts for the first that fits."""

_OUTCOMES = ("", *REASONS)
Outcome = pd.CategoricalDtype(list(_OUTCOMES))
"""Why a pair is dropped; "" is kept."""

_FOREIGN_WORD = re.compile("n+")

# Scripts by the first word of a character's Unicode name; every other language is taken to be written in Latin letters.
_SCRIPTS = {
    "am": {"ETHIOPIC"},
    "ar": {"ARABIC"},
    "be": {"CYRILLIC"},
    "bg": {"CYRILLIC"},
    "bn": {"BENGALI"},
    "el": {"GREEK"},
    "fa": {"ARABIC"},
    "gu": {"GUJARATI"},
    "he": {"HEBREW"},
    "hi": {"DEVANAGARI"},
    "hy": {"ARMENIAN"},
    "ja": {"CJK", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KATAKANA-HIRAGANA"},
    "ka": {"GEORGIAN"},
    "kk": {"CYRILLIC"},
    "km": {"KHMER"},
    "ko": {"CJK", "HANGUL"},
    "ky": {"CYRILLIC"},
    "lo": {"LAO"},
    "mk": {"CYRILLIC"},
    "ml": {"MALAYALAM"},
    "mn": {"CYRILLIC", "MONGOLIAN"},
    "mr": {"DEVANAGARI"},
    "my": {"MYANMAR"},
    "ne": {"DEVANAGARI"},
    "pa": {"ARABIC", "GURMUKHI"},
    "ps": {"ARABIC"},
    "ru": {"CYRILLIC"},
    "sr": {"CYRILLIC", "LATIN"},
    "ta": {"TAMIL"},
    "te": {"TELUGU"},
    "th": {"THAI"},
    "tg": {"CYRILLIC"},
    "uk": {"CYRILLIC"},
    "ur": {"ARABIC"},
    "yue": {"BOPOMOFO", "CJK", "IDEOGRAPHIC"},
    "zh": {"BOPOMOFO", "CJK", "IDEOGRAPHIC"},
}


def reasons_to_drop(
    pairs: pd.DataFrame, prints_of: Callable[[np.ndarray], np.ndarray], filters: TrainFilters
) -> pd.Series:
    """Per pair one of REASONS, or "" for a pair to keep.

    `pairs` has the columns source_length, target_length, script_share and identical; `prints_of` gives the fingerprints
    of some rows' normalised pairs, uint64 [rows, 2].
    """
    source_lengths, target_lengths = (pairs[f"{side}_length"].to_numpy() for side in ("source", "target"))
    empty = (source_lengths == 0) | (target_lengths == 0)
    found = {
        "empty": empty,
        "too_long": np.maximum(source_lengths, target_lengths) > filters.max_length,
        "length_ratio": _far_from_median(source_lengths, target_lengths, ~empty) > filters.max_length_ratio,
        "wrong_script": (pairs["script_share"] < filters.min_script_share).to_numpy(),
        "identical": pairs["identical"].to_numpy() & filters.drop_identical,
    }
    reason = np.full(len(pairs), _OUTCOMES.index(""), np.int8)
    for name, fits in reversed(found.items()):  # the first that fits is the last that is written
        reason[fits] = _OUTCOMES.index(name)
    if filters.drop_duplicates:
        kept = np.flatnonzero(reason == _OUTCOMES.index(""))
        reason[kept[duplicated(prints_of(kept))]] = _OUTCOMES.index("duplicate")
    return pd.Series(pd.Categorical.from_codes(reason, dtype=Outcome), index=pairs.index)


def _far_from_median(source_lengths: np.ndarray, target_lengths: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """By which factor >= 1 the ratio of the lengths is off the median of the `counted` pairs; 1 for the other pairs."""
    ratios = np.ones(len(counted))
    np.divide(source_lengths, target_lengths, out=ratios, where=counted)
    if counted.any():
        ratios[counted] /= np.median(ratios[counted])
    return np.maximum(ratios, 1 / ratios, out=ratios)


def script_shares(lines: Sequence[str], language: str) -> np.ndarray:
    """Per line the share of letters in its language's script; 1 for a line without letters (numbers, emoji).

    Among characters that are words, a word of foreign letters counts as one: `Tom游泳` is 2/3 Chinese, not 2/5.
    """
    scripts = _SCRIPTS.get(language, {"LATIN"})
    text = "\n".join(lines) + "\n"
    marks = {ord(character): _mark(character, scripts) for character in set(text)}
    marked = text.translate(marks)
    if language in UNSEGMENTED:
        marked = _FOREIGN_WORD.sub("n", marked)
    codes = np.frombuffer(marked.encode("ascii"), np.uint8)
    begins = np.concatenate([[0], np.flatnonzero(codes == ord("\n"))[:-1] + 1])
    native, foreign = (np.add.reduceat(codes == ord(mark), begins, dtype=np.int64) for mark in "yn")
    letters = native + foreign
    shares: np.ndarray = np.divide(native, letters, out=np.ones(len(lines)), where=letters > 0)
    return shares


def _mark(character: str, scripts: set[str]) -> str:
    """`y` or `n` for a letter in or out of `scripts`, a space for what is no letter, a line feed for itself."""
    if not unicodedata.category(character).startswith("L"):
        return "\n" if character == "\n" else " "
    words = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split()
    return "y" if words and words[0] in scripts else "n"

"""What a sentence is: its normalised text, its length, and the key by which two sentences count as the same.

Pure functions. The forms for many sentences work on all of them as one text, since a call into OpenCC, `unicodedata`
or `re` costs more than what it does to one sentence; a line feed, which no rule touches, keeps them apart.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import opencc

Form = Literal["NFC", "NFKC"]

UNSEGMENTED = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
"""Languages written without spaces between words: their length is counted in characters."""

_SPACE = re.compile(r"[^\S\n]{2,}|[^\S\n ]")  # a single space stays as it is: most are, and a match is what costs
_JOINERS = "\u200c\u200d"  # format characters that spell words (Persian, Hindi) and emoji
_SPACE_MARK = {ord("\u2581"): "_"}  # SentencePiece's sign for a space; in a text it would come back as one


def normalise(text: str, language: str, form: Form) -> str:
    """The text that a model reads or learns to write.

    Unicode in `form` (NFC, NFKC), no control characters, single spaces and none at the ends, Chinese simplified.
    """
    return normalise_lines([text], language, form)[0]


def normalise_lines(lines: Sequence[str], language: str, form: Form) -> list[str]:
    """`normalise` for many sentences at once."""
    if not lines:
        return []
    text = _joined(lines)
    characters = set(text)
    changed = _SPACE_MARK | {ord(character): "" for character in characters if _is_control(character)}
    if not characters.isdisjoint(map(chr, changed)):
        text = text.translate(changed)
    text = unicodedata.normalize(form, text)
    if language == "zh":
        text = _converter().convert(text)
    text = f"\n{_SPACE.sub(' ', text)}\n".replace("\n ", "\n").replace(" \n", "\n")
    return _apart(text[1:-1], lines)


def simplify_lines(lines: Sequence[str]) -> list[str]:
    """Chinese sentences in simplified characters, otherwise untouched (line feeds inside become spaces)."""
    return _apart(_converter().convert(_joined(lines)), lines) if lines else []


def text_length(text: str, language: str) -> int:
    """Characters other than spaces for languages without word spaces (Chinese, Japanese), words otherwise."""
    return int(text_lengths([text], language)[0])


def text_lengths(lines: Iterable[str], language: str) -> np.ndarray:
    """`text_length` of many sentences: int64 [N]."""
    if language in UNSEGMENTED:
        return np.array([len("".join(line.split())) for line in lines], np.int64)
    return np.array([len(line.split()) for line in lines], np.int64)


def join_sentences(texts: Iterable[str], language: str) -> str:
    """Several sentences as one text, as the language writes them one after the other."""
    return ("" if language in UNSEGMENTED else " ").join(texts)


def identity_key(text: str, language: str) -> str:
    """What two sentences share that count as the same.

    NFKC, case-folded, Chinese simplified, without punctuation, spaces and control characters. A sentence of nothing
    else ("?!", "...") is its own key: an empty one would make all of them the same.
    """
    return identity_keys([text], language)[0]


def identity_keys(lines: Sequence[str], language: str) -> list[str]:
    """`identity_key` of many sentences."""
    if not lines:
        return []
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _joined(lines)).casefold())
    if language == "zh":
        text = _converter().convert(text)
    ignored = {ord(c): None for c in set(text) if unicodedata.category(c)[0] in "PZC" and c != "\n"}
    keys = _apart(text.translate(ignored), lines)
    return [key or "".join(line.split()) for key, line in zip(keys, lines, strict=True)]


def _joined(lines: Sequence[str]) -> str:
    """All lines as one text, one line each."""
    text = "\n".join(lines)
    return text if text.count("\n") == len(lines) - 1 else "\n".join(line.replace("\n", " ") for line in lines)


def _apart(text: str, lines: Sequence[str]) -> list[str]:
    """What `_joined` joined, changed inside the lines only."""
    parts = text.split("\n")
    assert len(parts) == len(lines), "a rule changed the number of lines"
    return parts


def _is_control(character: str) -> bool:
    """Control, format and surrogate characters that say nothing in a sentence; white space is none of them."""
    unwritten = unicodedata.category(character) in ("Cc", "Cf", "Cs")
    return unwritten and not character.isspace() and character not in _JOINERS


@functools.cache
def _converter() -> opencc.OpenCC:
    return opencc.OpenCC("t2s")

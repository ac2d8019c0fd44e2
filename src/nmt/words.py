"""From subword pieces to words: what a piece spells, where the words of a text lie, which piece belongs to which word.

Attention is measured between pieces; people read, and gold alignments speak of, words. A text is spelt out of its
pieces, cut into words, and every piece is given to the words whose characters it covers.
"""

import importlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus import UNSEGMENTED

EOS = "</s>"

Span = tuple[int, int]
"""First character and the one after the last."""
Matrix = npt.NDArray[np.float64]

_CHINESE = ("yue", "zh")
_SPACE = "\u2581"  # SentencePiece's mark for a space
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BROKEN = "\ufffd"  # a byte that is part of no character
_SPECIAL = {EOS: "", "<s>": "", "<pad>": "", "<unk>": " \u2047 "}  # as SentencePiece's decoder spells them
_LONGEST_CHARACTER = 4  # bytes of UTF-8
# dashes and the ellipsis part words without a space
_INNER_BREAKS = re.compile(r"[\u2013\u2014\u2026]+|[^\s\u2013\u2014\u2026]+")


@dataclass(frozen=True)
class Sentence:
    """A text, its words, and the share of every piece in every word."""

    text: str
    words: list[str]
    spans: list[Span]
    """Of the words."""
    shares: Matrix
    """[pieces, words + 1]; a row sums to 1; the last column is `</s>`."""


def segment(pieces: Sequence[str], language: str) -> Sentence:
    """Spell a text out of its pieces and cut it into words of that language."""
    text, _ = spell(pieces)
    return share_out(pieces, word_spans(text, language))


def share_out(pieces: Sequence[str], spans: Sequence[Span]) -> Sentence:
    """Spell a text out of its pieces and give them to words whose spans are known."""
    text, piece_spans = spell(pieces)
    shares = piece_shares(piece_spans, spans, has_eos=bool(pieces) and pieces[-1] == EOS)
    return Sentence(text, [text[start:end] for start, end in spans], list(spans), shares)


def spell(pieces: Sequence[str]) -> tuple[str, list[Span]]:
    """The text that pieces spell, as SentencePiece decodes them, and each piece's span in it.

    The bytes of a character all have that character's span. Spaces that open the text are SentencePiece's own.
    """
    text = ""
    spans: list[Span] = []
    for surface, count in _surfaces(pieces):
        spans += [(len(text), len(text) + len(surface))] * count
        text += surface
    opening = len(text) - len(text.lstrip(" "))
    return text[opening:], [(max(start - opening, 0), max(end - opening, 0)) for start, end in spans]


def _surfaces(pieces: Sequence[str]) -> Iterator[tuple[str, int]]:
    """What is spelt, and by how many pieces: more than one only where bytes make up a character."""
    position = 0
    while position < len(pieces):
        piece = pieces[position]
        if _BYTE.fullmatch(piece):
            surface, count = _character(pieces[position : position + _LONGEST_CHARACTER])
        else:
            surface, count = _SPECIAL.get(piece, piece.replace(_SPACE, " ")), 1
        yield surface, count
        position += count


def _character(pieces: Sequence[str]) -> tuple[str, int]:
    """The character that byte pieces begin with, and its number of bytes; U+FFFD for a byte that begins none."""
    content = bytearray()
    for piece in pieces:
        byte = _BYTE.fullmatch(piece)
        if not byte:
            break
        content.append(int(byte[1], 16))
        try:  # no character's bytes are the beginning of another's, so the first that fits is the one
            return content.decode("utf-8"), len(content)
        except UnicodeDecodeError:
            continue
    return _BROKEN, 1


def word_spans(text: str, language: str) -> list[Span]:
    """Where the words of a text lie; white space belongs to none.

    Chinese: jieba with its own dictionary, and its HMM for words that are not in it. Other languages without spaces,
    for want of a cutter: characters. Else: what stands between spaces, dashes and ellipses, less the punctuation at its
    ends.
    """
    if language in _CHINESE:
        return [(start, end) for word, start, end in _jieba().tokenize(text, HMM=True) if not word.isspace()]
    if language in UNSEGMENTED:
        return [(i, i + 1) for i, character in enumerate(text) if not character.isspace()]
    return [span for chunk in _INNER_BREAKS.finditer(text) for span in _peel(text, *chunk.span())]


def _peel(text: str, start: int, end: int) -> list[Span]:
    """Split punctuation off both ends of text[start:end]; a run of one mark, such as `...`, stays one word."""
    core_start, core_end = start, end
    while core_start < core_end and is_punctuation(text[core_start]):
        core_start += 1
    while core_end > core_start and is_punctuation(text[core_end - 1]):
        core_end -= 1
    core = [(core_start, core_end)] if core_start < core_end else []
    return [*_runs(text, start, core_start), *core, *_runs(text, core_end, end)]


def _runs(text: str, start: int, end: int) -> list[Span]:
    """The spans of equal characters in a row."""
    return [match.span() for match in re.compile(r"(.)\1*", re.DOTALL).finditer(text, start, end)]


def is_punctuation(word: str) -> bool:
    """Whether every character is a mark or a symbol (Unicode categories P and S)."""
    return all(unicodedata.category(character)[0] in "PS" for character in word)


@cache
def _jieba() -> Any:
    """A Chinese word cutter (about a second to load).

    Filled by hand, because jieba's `initialize` logs, and leaves a cache in the temp folder, which it trusts later.
    """
    with warnings.catch_warnings():
        # jieba 0.42.1 has escapes such as "\." in plain strings, and asks pkg_resources for its files where that exists
        warnings.filterwarnings("ignore", message=".*invalid escape sequence")
        warnings.filterwarnings("ignore", message=".*pkg_resources")
        tokenizer = importlib.import_module("jieba").Tokenizer()
        tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def piece_shares(pieces: Sequence[Span], words: Sequence[Span], *, has_eos: bool) -> Matrix:
    """The share of each piece in each word, [pieces, words + 1], by the characters they have in common.

    A piece without a character of a word (a lone space mark) goes to the word that follows it, at the end to the last
    word, and in a text without words to the last column. That column holds the last piece, if that is the eos.
    """
    piece_start, piece_end = np.array(pieces, dtype=np.int64).reshape(-1, 2).T
    word_start, word_end = np.array(words, dtype=np.int64).reshape(-1, 2).T
    overlaps = np.minimum.outer(piece_end, word_end) - np.maximum.outer(piece_start, word_start)
    shares = np.zeros((len(pieces), len(words) + 1))
    shares[:, :-1] = overlaps.clip(min=0)
    homeless = np.flatnonzero(shares.sum(axis=1) == 0)
    following = np.searchsorted(word_end, piece_start[homeless], side="right")
    shares[homeless, np.minimum(following, max(len(words) - 1, 0))] = 1.0
    if has_eos:
        shares[-1] = 0.0
        shares[-1, -1] = 1.0
    shares /= shares.sum(axis=1, keepdims=True)
    return shares

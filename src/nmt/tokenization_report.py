"""How a subword model cuts the text: `reports/tokenization.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.batching import TokenStore
from nmt.corpus import UNSEGMENTED, text_length
from nmt.subwords import SPECIAL, Subwords

_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Part:
    """One part's pieces, and its lines, some at a time."""

    store: TokenStore
    blocks: Iterable[Sequence[str]]


def describe_tokenization(
    subwords: Subwords, asked_size: int, parts: Mapping[str, Part], language: str
) -> dict[str, Any]:
    """One side: its vocabulary, and per part (train, dev) the pieces that its lines became."""
    is_byte = np.array([subwords.is_byte(piece) for piece in range(subwords.size)])
    uses = {name: _uses(part.store, subwords.size) for name, part in parts.items()}
    learned = ~is_byte
    learned[list(SPECIAL)] = False
    return {
        "language": language,
        "vocabulary": subwords.size,
        "vocabulary_asked_for": asked_size,
        "learned_pieces": int(learned.sum()),
        "learned_pieces_unused_in_train": int((uses["train"][learned] == 0).sum()),
        "sha256": subwords.sha256,
        **{name: _part(part, uses[name], is_byte, language) for name, part in parts.items()},
    }


def _uses(store: TokenStore, size: int) -> np.ndarray:
    """How often each piece stands in the store."""
    uses = np.zeros(size, np.int64)
    for begin in range(0, len(store.ids), _AT_ONCE):
        uses += np.bincount(store.ids[begin : begin + _AT_ONCE], minlength=size)
    return uses


def _part(part: Part, uses: np.ndarray, is_byte: np.ndarray, language: str) -> dict[str, int | float]:
    """Pieces per sentence and per character or word, the longest sentence, and what only bytes could spell."""
    lengths = part.store.lengths
    pieces = int(uses.sum())
    unit = "character" if language in UNSEGMENTED else "word"
    units = sum(text_length("\n".join(lines), language) for lines in part.blocks)  # none spans two lines
    return {
        "sentences": len(lengths),
        "pieces": pieces,
        "pieces_per_sentence": round(float(lengths.mean()), 3),
        f"pieces_per_{unit}": round(pieces / max(1, units), 4),
        "longest_sentence_pieces": int(lengths.max()),
        "byte_pieces_share": round(int(uses[is_byte].sum()) / max(1, pieces), 6),
        "sentences_with_byte_pieces": _spelled(part.store, is_byte),
    }


def _spelled(store: TokenStore, is_byte: np.ndarray) -> int:
    """How many sentences hold a byte."""
    found = 0
    for begin in range(0, len(store), _AT_ONCE):
        offsets = store.offsets[begin : begin + _AT_ONCE + 1]
        bytes_before = np.cumsum(np.concatenate([[False], is_byte[store.ids[offsets[0] : offsets[-1]]]]))
        found += int((np.diff(bytes_before[offsets - offsets[0]]) > 0).sum())
    return found

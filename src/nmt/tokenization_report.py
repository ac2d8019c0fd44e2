"""How a subword model cuts the text: `reports/tokenization.json`."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nmt.corpus import UNSEGMENTED, text_lengths
from nmt.subwords import SPECIAL, Subwords


def describe_tokenization(
    subwords: Subwords,
    asked_size: int,
    lines: Mapping[str, Sequence[str]],
    ids: Mapping[str, Sequence[Sequence[int]]],
    language: str,
) -> dict[str, Any]:
    """One side: its vocabulary, and per part (train, dev) the pieces that its lines became."""
    is_byte = np.array([subwords.is_byte(piece) for piece in range(subwords.size)])
    uses = {part: np.bincount(list(chain.from_iterable(ids[part])), minlength=subwords.size) for part in ids}
    learned = ~is_byte
    learned[list(SPECIAL)] = False
    return {
        "language": language,
        "vocabulary": subwords.size,
        "vocabulary_asked_for": asked_size,
        "learned_pieces": int(learned.sum()),
        "learned_pieces_unused_in_train": int((uses["train"][learned] == 0).sum()),
        "sha256": subwords.sha256,
        **{part: _part(lines[part], ids[part], uses[part], is_byte, language) for part in ids},
    }


def _part(
    lines: Sequence[str], ids: Sequence[Sequence[int]], uses: np.ndarray, is_byte: np.ndarray, language: str
) -> dict[str, int | float]:
    """Pieces per sentence and per character or word, the longest sentence, and what only bytes could spell."""
    lengths = np.array([len(sequence) for sequence in ids], np.int64)
    pieces = int(lengths.sum())
    unit = "character" if language in UNSEGMENTED else "word"
    spelled = sum(bool(is_byte[list(sequence)].any()) for sequence in ids)
    return {
        "sentences": len(ids),
        "pieces": pieces,
        "pieces_per_sentence": round(float(lengths.mean()), 3),
        f"pieces_per_{unit}": round(pieces / max(1, int(text_lengths(lines, language).sum())), 4),
        "longest_sentence_pieces": int(lengths.max()),
        "byte_pieces_share": round(int(uses[is_byte].sum()) / max(1, pieces), 6),
        "sentences_with_byte_pieces": spelled,
    }

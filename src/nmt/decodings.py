"""What `translate` kept of one model's test set, checked to fit together and cut into words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmt import paths, records
from nmt.config import Corpus
from nmt.errors import UserError
from nmt.files import read_matrices
from nmt.readings import INFLUENCES, Pair
from nmt.words import EOS, Matrix, Sentence, segment

PREFIXES = {"hypotheses": "", "references": "references."}


@dataclass(frozen=True)
class Decodings:
    """One target text per test sentence, decoded freely or forced."""

    pairs: list[Pair]
    finished: list[bool]
    """Whether a text ends in eos rather than at the length limit."""
    scores: list[float]
    """log p / length ** length_penalty of a hypothesis, the log-probability of a reference."""
    attends: bool

    @property
    def sources(self) -> list[Sentence]:
        """One per test sentence."""
        return [pair.source for pair in self.pairs]

    @property
    def targets(self) -> list[Sentence]:
        """One per test sentence."""
        return [pair.target for pair in self.pairs]

    def weights(self, step: str) -> list[Matrix]:
        """Attention between words at step `t` or `t+1`."""
        return [pair.weights(step) for pair in self.pairs]


def read_decodings(variant: str, seed: int, attends: bool, corpus: Corpus) -> dict[str, Decodings]:
    """Read `hypotheses` (the best of each) and `references`."""
    folder = paths.translations(variant, seed)
    hypotheses = records.read_each(folder / "hypotheses.jsonl", records.Translated)
    best = [{**line["hypotheses"][0], "source_pieces": line["source_pieces"]} for line in hypotheses]
    lines = {"hypotheses": best, "references": records.read_each(folder / "references.jsonl", records.Forced)}
    return {name: _decodings(lines[name], folder, PREFIXES[name], attends, corpus) for name in PREFIXES}


def _decodings(lines: Sequence[dict[str, Any]], folder: Path, prefix: str, attends: bool, corpus: Corpus) -> Decodings:
    sources = [segment(line["source_pieces"], corpus.source) for line in lines]
    targets = [segment(line["pieces"], corpus.target) for line in lines]
    by_piece = [(len(line["pieces"]), len(line["source_pieces"])) for line in lines]
    by_word = [(pieces, len(source.words)) for (pieces, _), source in zip(by_piece, sources, strict=True)]
    nothing: list[np.ndarray | None] = [None] * len(lines)
    attention = _matrices(folder / f"{prefix}attention.npz", by_piece, by_piece) if attends else nothing
    unmeasured = [(0, 0)] * len(lines)
    influences = [_matrices(folder / f"{prefix}{name}.npz", by_word, unmeasured) for name in INFLUENCES]
    by_pair = [
        {name: matrix for name, matrix in zip(INFLUENCES, matrices, strict=True) if matrix is not None}
        for matrices in zip(*influences, strict=True)
    ]
    return Decodings(
        pairs=list(map(Pair, sources, targets, attention, by_pair)),
        finished=[line["pieces"][-1:] == [EOS] for line in lines],
        scores=[line.get("score", line["log_probability"]) for line in lines],
        attends=attends,
    )


def _matrices(
    path: Path, shapes: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]
) -> list[np.ndarray | None]:
    """The matrices of a file, each of the shape that it must have; None for one of the other shape allowed."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run `dvc repro translate`")
    matrices = read_matrices(path)
    if len(matrices) != len(shapes) or any(
        matrix.shape not in allowed for matrix, *allowed in zip(matrices, shapes, others, strict=True)
    ):
        raise UserError(f"{path} does not fit the pieces in the file beside it; run `dvc repro --force translate`")
    return [matrix if matrix.shape == shape else None for matrix, shape in zip(matrices, shapes, strict=True)]

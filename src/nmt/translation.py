"""What a model says of a text: its translations, or the probability of a given one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.corpus import join_sentences

Matrix = npt.NDArray[np.float32]

_LEAST_COVERAGE = float(np.finfo(np.float32).tiny)
"""As in search: no logarithm is infinite."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation of a line."""

    text: str
    pieces: list[str]
    """eos included, unless the maximum length cut it off."""
    score: float
    """What hypotheses are compared by: log_probability / number of pieces ** length_penalty, and coverage."""
    log_probability: float
    attention: Matrix | None
    """[pieces, source pieces], rows sum to 1; None for a model without attention."""

    @property
    def coverage(self) -> float:
        """Sum over the source of log min(attention in all, 1) (Wu et al. 2016, equation 14); 0 without attention."""
        if self.attention is None:
            return 0.0
        covered = self.attention.sum(axis=0, dtype=np.float64)
        return float(np.log(covered.clip(_LEAST_COVERAGE, 1.0)).sum())

    @classmethod
    def empty(cls, has_attention: bool) -> "Hypothesis":
        """The translation of nothing."""
        return cls("", [], 0.0, 0.0, np.zeros((0, 0), np.float32) if has_attention else None)

    @classmethod
    def joined(
        cls, parts: Sequence["Hypothesis"], language: str, length_penalty: float, coverage_penalty: float
    ) -> "Hypothesis":
        """The hypotheses of a text's parts as one: text after text, each part's attention in its own block."""
        pieces = [piece for part in parts for piece in part.pieces]
        log_probability = math.fsum(part.log_probability for part in parts)
        coverage = math.fsum(part.coverage for part in parts) if coverage_penalty else 0.0
        matrices = [part.attention for part in parts if part.attention is not None]
        return cls(
            text=join_sentences((part.text for part in parts if part.text), language),
            pieces=pieces,
            score=log_probability / len(pieces) ** length_penalty + coverage_penalty * coverage,
            log_probability=log_probability,
            attention=_block_diagonal(matrices) if matrices else None,
        )


@dataclass(frozen=True)
class Translation:
    """The hypotheses for a line, best first; there is always one."""

    source_pieces: list[str]
    """eos included; none for a line without text."""
    hypotheses: list[Hypothesis]


@dataclass(frozen=True)
class Forced:
    """A given target under the model."""

    source_pieces: list[str]
    pieces: list[str]
    """eos included."""
    log_probability: float
    """Natural, the sum of the tokens'."""
    token_log_probabilities: list[float]
    attention: Matrix | None


def _block_diagonal(blocks: Sequence[Matrix]) -> Matrix:
    whole = np.zeros(np.sum([block.shape for block in blocks], axis=0), np.float32)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole

"""Test sentences one by one: for the explorer of the report, and for a list of those worth reading.

The list holds candidates, not errors: a source word that nothing looks at may be one that the target does not need.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nmt import scoring
from nmt.config import AnalyzeAttention
from nmt.decodings import Decodings
from nmt.readings import INFLUENCES, Pair
from nmt.words import Matrix, is_punctuation

COLUMNS = (
    "id",
    "both_fail",
    "chrf",
    "entropy",
    "uncovered",
    "overcovered",
    "repeated",
    "source",
    "hypothesis",
    "reference",
)  # fmt: skip
SIGNS = ("uncovered", "overcovered", "repeated", "both_fail")
_DIGITS = 4


@dataclass(frozen=True)
class Reading:
    """What can be said of one sentence and its best hypothesis."""

    pair: Pair
    weights: Matrix | None
    """Attention between words at step t; None without."""
    entropy: float | None
    """Mean over target words, in nats; None without attention or without target words."""
    chrf: float
    score: float
    uncovered: list[str]
    """Source words, punctuation aside, whose weights add up to little: left out?"""
    overcovered: list[str]
    """Source words whose weights add up to much: translated twice?"""
    repeated: list[str]
    """Pairs of neighbouring target words that stand there more than once."""
    both_fail: bool
    """Among the worst by chrF, and among those whose attention is spread most."""


def read_sentences(
    decoded: Decodings, records: Sequence[Mapping[str, Any]], language: str, settings: AnalyzeAttention
) -> list[Reading]:
    """Read the best hypotheses."""
    weights = decoded.weights("t") if decoded.attends else [None] * len(records)
    entropies = [None if matrix is None else mean_entropy(matrix) for matrix in weights]
    references = [record["references"] for record in records]
    counts = scoring.statistics(scoring.chrf(language), [target.text for target in decoded.targets], references)
    chrf = counts.scores(counts.values)
    bad = chrf <= np.quantile(chrf, settings.worst_share)
    lost = most_spread(entropies, weights, settings.worst_share)
    covered = [_covered(pair, matrix) for pair, matrix in zip(decoded.pairs, weights, strict=True)]
    return [
        Reading(
            pair=pair,
            weights=weights[i],
            entropy=entropies[i],
            chrf=float(chrf[i]),
            score=decoded.scores[i],
            uncovered=[word for word, weight in covered[i] if weight < settings.uncovered],
            overcovered=[word for word, weight in covered[i] if weight > settings.overcovered],
            repeated=[" ".join(two) for two, n in Counter(pairwise(pair.target.words)).items() if n > 1],
            both_fail=bool(bad[i]) and lost[i],
        )
        for i, pair in enumerate(decoded.pairs)
    ]


def mean_entropy(weights: Matrix) -> float | None:
    """The mean entropy of the rows, in nats; None without a row."""
    if not len(weights):
        return None
    return float(np.mean(np.sum(weights * np.log(1.0 / np.where(weights > 0, weights, 1.0)), axis=1)))


def most_spread(entropies: Sequence[float | None], weights: Sequence[Matrix | None], share: float) -> list[bool]:
    """Whether a sentence is among this share of them by its entropy over log S; without entropy none is."""
    spread = [
        entropy / np.log(matrix.shape[1])
        for entropy, matrix in zip(entropies, weights, strict=True)
        if entropy is not None and matrix is not None
    ]
    if not spread:
        return [False] * len(entropies)
    limit, remaining = np.quantile(spread, 1.0 - share), iter(spread)
    return [entropy is not None and bool(next(remaining) >= limit) for entropy in entropies]


def _covered(pair: Pair, weights: Matrix | None) -> list[tuple[str, float]]:
    """The source words but for punctuation, with what their weights add up to."""
    if weights is None:
        return []
    sums = weights[:, :-1].sum(axis=0).tolist()
    return [(word, sum_) for word, sum_ in zip(pair.source.words, sums, strict=True) if not is_punctuation(word)]


def word_records(records: Sequence[Mapping[str, Any]], readings: Sequence[Reading]) -> Iterator[dict[str, Any]]:
    """One object per test sentence: its words and the matrices between them.

    `attention` [T, S + 1] has `</s>` last; `erasure` and `gradient` [T, S] are in nats, positive where the source word
    helped (see nmt.influence).
    """
    for record, one in zip(records, readings, strict=True):
        influences = {name: _listed(one.pair.influence(name)) for name in INFLUENCES}
        yield {
            "id": record["id"],
            "source": one.pair.source.words,
            "target": one.pair.target.words,
            "attention": None if one.weights is None else _listed(one.weights),
            **influences,
            "entropy": None if one.entropy is None else round(one.entropy, _DIGITS),
            "chrf": round(one.chrf, _DIGITS),
            "score": round(one.score, _DIGITS),
        }


def _listed(matrix: Matrix) -> list[list[float]]:
    """The rows, rounded; no negative zero."""
    rows: list[list[float]] = (np.round(matrix, _DIGITS) + 0.0).tolist()
    return rows


def listing(records: Sequence[Mapping[str, Any]], readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """A row for each sentence with a sign: those where both fail first, then the worst chrF first."""
    chosen = [
        (record, one)
        for record, one in zip(records, readings, strict=True)
        if any(getattr(one, sign) for sign in SIGNS)
    ]
    rows = [
        (
            record["id"],
            "yes" if one.both_fail else "",
            round(one.chrf, 2),
            "" if one.entropy is None else round(one.entropy, _DIGITS),
            " ".join(one.uncovered),
            " ".join(one.overcovered),
            ", ".join(one.repeated),
            record["source"],
            one.pair.target.text,
            record["references"][0],
        )
        for record, one in sorted(chosen, key=lambda two: (not two[1].both_fail, two[1].chrf))
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def counts(readings: Sequence[Reading]) -> dict[str, int]:
    """How many sentences have each sign."""
    return {sign: sum(bool(getattr(one, sign)) for one in readings) for sign in SIGNS}

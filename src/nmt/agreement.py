"""Whether two measures of where a target word comes from agree: rank correlation, and the word that they put first."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nmt.readings import Pair
from nmt.scoring import Bootstrap
from nmt.words import Matrix

PAIRS = (("attention", "erasure"), ("attention", "gradient"), ("erasure", "gradient"))


def agreements(pairs: Sequence[Pair], bootstrap: Bootstrap) -> dict[str, dict[str, float | None]]:
    """For each two measures that the model has: `tau` and `top`, means over target words, with their intervals.

    `tau` is Kendall's tau-a between the two orders of the source words (1 the same, 0 none, -1 reversed), `top` the
    share of target words for which both put the same source word first. Attention is that of step t, less `</s>`.
    A sentence of a single source word has no order. Sentences are what the bootstrap draws.
    """
    tables: dict[str, list[npt.NDArray[np.float64]]] = {}
    for pair in pairs:
        if len(pair.source.words) < 2 or not pair.influences:
            continue
        matrices = {name: pair.influence(name) for name in pair.influences}
        if pair.attention is not None:
            matrices["attention"] = pair.weights("t")[:, :-1]
        for one, other in PAIRS:
            if one in matrices:
                counted = sentence_agreement(matrices[one], matrices[other])
                tables.setdefault(f"{one}_{other}", []).append(counted)
    return {name: _summary(np.stack(rows), bootstrap) for name, rows in tables.items()}


def sentence_agreement(one: Matrix, other: Matrix) -> npt.NDArray[np.float64]:
    """[3]: target words, the sum of their taus, and how many have the same word on top; of matrices [T, S]."""
    return np.array([len(one), rank_correlations(one, other).sum(), (one.argmax(axis=1) == other.argmax(axis=1)).sum()])


def rank_correlations(one: Matrix, other: Matrix) -> npt.NDArray[np.float64]:
    """Kendall's tau-a [T] between the rows of two matrices [T, S]: concordant less discordant pairs, over all pairs."""
    upper = np.triu_indices(one.shape[1], k=1)
    signs = [np.sign(matrix[:, upper[0]] - matrix[:, upper[1]]) for matrix in (one, other)]
    return np.asarray((signs[0] * signs[1]).mean(axis=1))


def _summary(table: npt.NDArray[np.float64], bootstrap: Bootstrap) -> dict[str, float | None]:
    total, samples = table.sum(axis=0), bootstrap.totals(table)
    summary: dict[str, float | None] = {}
    for column, name in ((1, "tau"), (2, "top")):
        known = samples[samples[:, 0] > 0]
        mean = float(total[column] / total[0]) if total[0] else None
        low, high = bootstrap.interval(known[:, column] / known[:, 0]) if len(known) else (mean, mean)
        summary |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return summary

"""Word links read out of a model in several ways, each held against hand-made links, beside what knows nothing.

    diagonal                 an even walk through the source
    uniform                  a source word drawn at random for each target word (the expected quality)
    attention t, t+1         the weights that predict a word, or the next ones, which have read it (see docs)
    erasure, gradient        the influence that helped, as shares (see nmt.influence)

Each but the first two by its largest weight ("argmax"), and by all weights of at least a threshold.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt import alignment
from nmt.gold import Gold, Links
from nmt.scoring import Bootstrap
from nmt.words import Matrix, Sentence

STEPS = ("t", "t+1")
INFLUENCES = ("erasure", "gradient")


@dataclass(frozen=True)
class Pair:
    """A source, the target that was written for it, and what the model says of the two, piece by piece."""

    source: Sentence
    target: Sentence
    attention: npt.NDArray[np.floating] | None
    """[T, S] between pieces; None for a model without."""
    influences: Mapping[str, npt.NDArray[np.floating]]
    """[T, source words] by name."""

    def weights(self, step: str) -> Matrix:
        """Attention between words, at step `t` or `t+1` (see `alignment.next_step`)."""
        assert self.attention is not None, "a model without attention"
        rows = alignment.next_step(self.attention) if step == "t+1" else self.attention
        return alignment.word_attention(rows, self.source, self.target)

    def influence(self, name: str) -> Matrix:
        """Influence between words [T, S], in nats."""
        return alignment.word_influence(self.influences[name], self.target)

    def readings(self) -> Iterator[tuple[str, Matrix]]:
        """All that links can be read from: names, and weights [T, S + 1]."""
        for step in STEPS if self.attention is not None else ():
            yield f"attention {step}", self.weights(step)
        for name in self.influences:
            yield name, alignment.influence_weights(self.influence(name))


def read_links(pairs: Sequence[Pair], threshold: float) -> dict[str, list[Links]]:
    """The links of every way to read them, by name; a name has one set of links for each pair."""
    found: dict[str, list[Links]] = {}
    for pair in pairs:
        shape = np.zeros((len(pair.target.words), len(pair.source.words) + 1))
        found.setdefault("diagonal", []).append(alignment.argmax_links(alignment.diagonal_like(shape)))
        for name, weights in pair.readings():
            found.setdefault(f"{name} argmax", []).append(alignment.argmax_links(weights))
            found.setdefault(f"{name} threshold", []).append(alignment.threshold_links(weights, threshold))
    return found


def table(pairs: Sequence[Pair], gold: Sequence[Gold], threshold: float, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row for each way to read links: `row` of its counts."""
    shapes = [(len(pair.target.words), len(pair.source.words)) for pair in pairs]
    counts = {name: alignment.link_counts(links, gold) for name, links in read_links(pairs, threshold).items()}
    counts = {"uniform": alignment.random_link_counts(shapes, gold)} | counts
    return [row(name, counted, bootstrap) for name, counted in counts.items()]


def row(method: str, counts: npt.NDArray[np.float64], bootstrap: Bootstrap) -> dict[str, Any]:
    """Precision, recall and AER, with the bootstrap interval of AER over sentences."""
    samples = [alignment.quality(totals)["aer"] for totals in bootstrap.totals(counts)]
    low, high = bootstrap.interval(np.array([aer for aer in samples if aer is not None] or [np.nan]))
    found = alignment.quality(counts.sum(axis=0))
    known = found["aer"] is not None
    return {"method": method, **found, "low": low if known else None, "high": high if known else None}

"""What attention weights say about words: links, their quality, and statistics of where a model looks.

Weights are word attention [target words, source words + 1], rows sum to 1, the last column is the source's `</s>`.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from nmt.gold import Gold, Links
from nmt.words import Matrix, Sentence

Observations = dict[str, npt.NDArray[np.float64]]

_SAME_POSITION = 1e-9  # below this two expected positions are equal: rounding must not make an order out of none


def word_attention(weights: npt.ArrayLike, source: Sentence, target: Sentence) -> Matrix:
    """Attention between words out of attention between pieces [T, S].

    The weights of a source word's pieces are added, because together they are what was looked at; those of a target
    word's pieces are averaged, so that a row stays a distribution (Koehn & Knowles 2017, section 3.5). A target word
    without a piece has a row of zeros.
    """
    onto_words = np.asarray(weights, dtype=np.float64) @ source.shares
    parts = target.shares[:, :-1]
    pieces = parts.sum(axis=0)
    return np.asarray(np.divide(parts, pieces, out=np.zeros_like(parts), where=pieces > 0).T @ onto_words)


def word_influence(influence: npt.ArrayLike, target: Sentence) -> Matrix:
    """Influence of source words on target words [T, S] out of that on target pieces, in nats.

    The log-probability of a word is the sum of its pieces', so what changes them is added.
    """
    return np.asarray(target.shares[:, :-1].T @ np.asarray(influence, dtype=np.float64))


def influence_weights(influence: Matrix) -> Matrix:
    """Influence as weights like attention's [T, S + 1]: the shares of the words that helped.

    A target word that no source word helped has all its weight on the last column, `</s>`: it links nowhere.
    """
    helped = np.maximum(influence, 0.0)
    total = helped.sum(axis=1, keepdims=True)
    weights = np.divide(helped, total, out=np.zeros_like(helped), where=total > 0)
    return np.concatenate([weights, total == 0], axis=1)


def next_step(weights: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """For each piece the weights of the step after it [T, S]: computed with the state that has read the piece in.

    The weights that predict piece t come from a state that knows only the pieces before t. The last row has no
    successor and stays: it is the eos, or the piece at which the length limit cut the hypothesis off.
    """
    return np.concatenate([weights[1:], weights[-1:]])


def argmax_links(weights: Matrix) -> Links:
    """Each target word's most looked-at source word; no link where that is `</s>`."""
    best = weights.argmax(axis=1)
    return {(int(source), target) for target, source in enumerate(best) if source < weights.shape[1] - 1}


def turned(links: Links) -> Links:
    """The links of a reverse model, (target, source), as (source, target)."""
    return {(source, target) for target, source in links}


def threshold_links(weights: Matrix, threshold: float) -> Links:
    """Every pair of words whose weight is at least `threshold`."""
    return {(int(source), int(target)) for target, source in np.argwhere(weights[:, :-1] >= threshold)}


_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Steps of target and source word, in the order of Koehn's own grow-diag: the diagonal ones come last."""


def intersection(forward: Links, backward: Links) -> Links:
    """The links that both directions have; both as (source, target)."""
    return forward & backward


def grow_diag(forward: Links, backward: Links) -> Links:
    """The intersection, grown by links of either direction beside its links (Koehn, Och & Marcu 2003, section 4.4).

    A neighbour, diagonal ones included, comes in if its source or its target word has no link yet. Pairs of words are
    visited in order of target, then source word, round after round until nothing comes in; a link that has come in is
    grown from in the same round.
    """
    found, union = forward & backward, forward | backward
    sources, targets = ({link[side] for link in found} for side in (0, 1))
    visited = sorted(union, key=lambda link: link[::-1])
    grown = True
    while grown:
        grown = False
        for source, target in visited:
            if (source, target) not in found:
                continue
            for i, j in _NEIGHBOURS:
                link = (source + j, target + i)
                if link in union and link not in found and not (link[0] in sources and link[1] in targets):
                    found.add(link)
                    sources.add(link[0])
                    targets.add(link[1])
                    grown = True
    return found


def format_links(links: Links) -> str:
    """Pharaoh format: `source-target` from 0, sorted."""
    return " ".join(f"{source}-{target}" for source, target in sorted(links))


def link_counts(links: Sequence[Links], gold: Sequence[Gold]) -> npt.NDArray[np.float64]:
    """[N, 4]: what each sentence adds to `quality`: links found, sure ones, found ones that are sure, or possible."""
    rows = [
        (len(ours), len(theirs.sure), len(ours & theirs.sure), len(ours & theirs.possible))
        for ours, theirs in zip(links, gold, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def random_link_counts(shapes: Sequence[tuple[int, int]], gold: Sequence[Gold]) -> npt.NDArray[np.float64]:
    """What `link_counts` gives on average if each target word's link is drawn from all source words alike.

    `shapes` are the numbers of target and source words.
    """
    rows = [
        (targets if sources else 0, len(one.sure), len(one.sure) / max(sources, 1), len(one.possible) / max(sources, 1))
        for (targets, sources), one in zip(shapes, gold, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def quality(totals: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Precision, recall and alignment error rate from the sum of `link_counts` (Och & Ney 2003, section 5).

    None where there is nothing to divide by.
    """
    found, sure, in_sure, in_possible = totals.tolist()
    return {
        "precision": in_possible / found if found else None,
        "recall": in_sure / sure if sure else None,
        "aer": 1.0 - (in_sure + in_possible) / (found + sure) if found + sure else None,
    }


def uniform_like(weights: Matrix) -> Matrix:
    """A model that looks at everything alike."""
    return np.full_like(weights, 1.0 / weights.shape[1])


def diagonal_like(weights: Matrix) -> Matrix:
    """A model that walks through the source at an even pace and looks at one word at a time, never at `</s>`."""
    targets, words = weights.shape[0], weights.shape[1] - 1
    diagonal = np.zeros_like(weights)
    # the middle of target word t falls into this source word; whole numbers, so that no rounding moves it
    diagonal[np.arange(targets), (2 * np.arange(targets) + 1) * words // max(2 * targets, 1)] = 1.0
    return diagonal


def observe(weights: Matrix, punctuation: Sequence[bool], threshold: float) -> Observations:
    """Every statistic's observations in one sentence.

    `punctuation` says of each source word whether it is a mark; a source word that no target word gives `threshold`
    was never looked at. Per target word: entropy (nats; also over log S, S = source words + 1), max_weight, eos_mass,
    punctuation_mass. Per source word: coverage (its column's sum), coverage_deviation (from 1), never_looked_at.
    Per sentence: monotonicity. Per pair of neighbouring target words: backward_jumps.
    """
    words = weights[:, :-1]
    entropy = np.sum(weights * np.log(1.0 / np.where(weights > 0, weights, 1.0)), axis=1)
    coverage = words.sum(axis=0)
    return {
        "entropy": entropy,
        "entropy_normalised": entropy / (math.log(weights.shape[1]) or 1.0),
        "max_weight": weights.max(axis=1),
        "eos_mass": weights[:, -1],
        "punctuation_mass": words[:, np.array(punctuation, dtype=bool)].sum(axis=1),
        "coverage": coverage,
        "coverage_deviation": np.abs(coverage - 1.0),
        "never_looked_at": (words.max(axis=0, initial=0.0) < threshold).astype(np.float64),
        "monotonicity": _monotonicity(words),
        "backward_jumps": _backward_jumps(words),
    }


def _monotonicity(words: Matrix) -> npt.NDArray[np.float64]:
    """Kendall's tau-a between target positions and expected source positions: 1 in order, -1 reversed; a tie counts 0.

    Rows that look at `</s>` alone have no source position; fewer than two other rows give no observation.
    """
    mass = words.sum(axis=1)
    seen = words[mass > _SAME_POSITION]
    if len(seen) < 2:
        return np.zeros(0)
    position = seen @ np.arange(words.shape[1]) / seen.sum(axis=1)
    difference = position[None, :] - position[:, None]
    order = np.where(np.abs(difference) > _SAME_POSITION, np.sign(difference), 0.0)
    return np.array([order[np.triu_indices(len(seen), k=1)].mean()])


def _backward_jumps(words: Matrix) -> npt.NDArray[np.float64]:
    """Whether the most looked-at source word lies before the preceding target word's; of equals the first counts."""
    if not words.shape[1]:
        return np.zeros(0)
    best = words.argmax(axis=1)
    return np.asarray(best[1:] < best[:-1], dtype=np.float64)


def average(observations: Iterable[Observations]) -> dict[str, float | None]:
    """The mean of each statistic over all its observations in all sentences; None where there is none."""
    collected: dict[str, list[npt.NDArray[np.float64]]] = {}
    for sentence in observations:
        for name, values in sentence.items():
            collected.setdefault(name, []).append(values)
    return {name: _mean(np.concatenate(values)) for name, values in collected.items()}


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 6) if len(values) else None


def text_statistics(
    sources: Sequence[Sequence[str]],
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    finished: Sequence[bool],
) -> dict[str, object]:
    """What can be said of translations without looking at attention; every sentence is a list of its words.

    Ratios are of sums over all sentences. `unfinished`: no eos before the length limit.
    `under_half_of_reference`: stopped early, with less than half of its reference's words.
    """
    words = {"source": _total(sources), "hypothesis": _total(hypotheses), "reference": _total(references)}
    early = [2 * len(ours) < len(theirs) for ours, theirs in zip(hypotheses, references, strict=True)]
    return {
        "sentences": len(sources),
        "words": words,
        "length_ratio": {
            "hypothesis_to_source": _share(words["hypothesis"], words["source"]),
            "reference_to_source": _share(words["reference"], words["source"]),
            "hypothesis_to_reference": _share(words["hypothesis"], words["reference"]),
        },
        "repeated_bigrams": {"hypotheses": repeated_bigrams(hypotheses), "references": repeated_bigrams(references)},
        "empty": _share(sum(not hypothesis for hypothesis in hypotheses), len(hypotheses)),
        "unfinished": _share(sum(not ended for ended in finished), len(finished)),
        "under_half_of_reference": _share(sum(early), len(early)),
    }


def repeated_bigrams(sentences: Sequence[Sequence[str]]) -> float | None:
    """The share of word pairs that stood earlier in the same sentence; None without any pair."""
    pairs = [list(itertools.pairwise(words)) for words in sentences]
    return _share(sum(len(sentence) - len(set(sentence)) for sentence in pairs), _total(pairs))


def mean_by_length(lengths: Sequence[int], values: Sequence[int], fewest: int) -> tuple[list[float], list[float]]:
    """Mean lengths and mean values of neighbouring lengths, taken together until a class has `fewest` sentences.

    Sentences of equal length are never parted; a rest that is too small joins the class before it.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    length, value = np.asarray(lengths)[order], np.asarray(values)[order]
    starts = [0]
    for change in np.flatnonzero(np.diff(length)) + 1:
        if change - starts[-1] >= fewest and len(length) - change >= fewest:
            starts.append(int(change))
    classes = list(zip(starts, [*starts[1:], len(length)], strict=True)) if len(length) else []
    return [float(length[i:j].mean()) for i, j in classes], [float(value[i:j].mean()) for i, j in classes]


def _total(sentences: Sequence[Sequence[object]]) -> int:
    return sum(len(sentence) for sentence in sentences)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None

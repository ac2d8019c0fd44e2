"""Whether a difference between two systems is more than chance: the paired bootstrap.

A system may be several trainings that differ in their seed; its score is then the mean of theirs. Sentences are
resampled, seeds are not: a test speaks of other sentences, the deviation over seeds of other trainings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics.base import Metric

from nmt.scoring import Bootstrap, Floats, Joined, Statistics

_LEAST_BLOCKS = 30  # fewer make a bootstrap over blocks meaningless


@dataclass(frozen=True)
class Effect:
    """A measured effect, its bootstrap interval and the two-sided p-value of "there is none"."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(systems: Sequence[Statistics], baselines: Sequence[Statistics], bootstrap: Bootstrap) -> Effect:
    """Test the score of `systems` minus that of `baselines` on the same sentences (Koehn 2004, section 4).

    Koehn's share of samples in which the winner does not win is doubled, since nobody knew beforehand which one wins.
    """
    measured = _mean_score(systems) - _mean_score(baselines)
    samples = _mean_samples(systems, bootstrap) - _mean_samples(baselines, bootstrap)
    return _effect(measured, samples, bootstrap)


def gap_slope(
    systems: Sequence[Sequence[Joined]], baselines: Sequence[Sequence[Joined]], metric: Metric, bootstrap: Bootstrap
) -> tuple[list[float], Effect]:
    """Measure the gap of `systems` over `baselines` at each size of input, and the slope of the line through the gaps.

    What is resampled are blocks of consecutive test sentences, the same ones at every size: a block is as long as the
    least common multiple of the sizes and so holds whole inputs of each. A sample thus keeps that a sentence and the
    longer inputs that contain it are hard together. The line is the least-squares one, its slope in points per further
    sentence in an input. Each outer sequence has one entry per seed, each inner one per size.
    """
    sizes = [joined.size for joined in systems[0]]
    sentences = max(int(joined.starts.max()) + joined.size for joined in systems[0])
    block = block_length(sizes, sentences)
    gaps, samples = [], []
    for level in range(len(sizes)):
        ours = [_by_block(system[level], metric, block, sentences) for system in systems]
        theirs = [_by_block(system[level], metric, block, sentences) for system in baselines]
        gaps.append(_mean_score(ours) - _mean_score(theirs))
        samples.append(_mean_samples(ours, bootstrap) - _mean_samples(theirs, bootstrap))
    measured = float(_slope(sizes, np.array(gaps)[:, None])[0])
    return gaps, _effect(measured, _slope(sizes, np.array(samples)), bootstrap)


def paired_shares(systems: Sequence[Floats], baselines: Sequence[Floats], bootstrap: Bootstrap) -> Effect:
    """Test a share of `systems` minus that of `baselines`; each is [N, 2]: in a sentence, how many, and how many hits.

    A sample without any leaves its system at a share of 0: both systems have the same sentences, so it says nothing.
    """

    def share(totals: Floats) -> Floats:
        shares: Floats = np.divide(totals[:, 1], totals[:, 0], out=np.zeros(len(totals)), where=totals[:, 0] > 0)
        return shares

    def measured(several: Sequence[Floats]) -> float:
        return float(np.mean([share(table.sum(axis=0, keepdims=True)) for table in several]))

    def samples(several: Sequence[Floats]) -> Floats:
        means: Floats = np.mean([share(bootstrap.totals(table)) for table in several], axis=0)
        return means

    return _effect(measured(systems) - measured(baselines), samples(systems) - samples(baselines), bootstrap)


def block_length(sizes: Sequence[int], sentences: int) -> int:
    """Consecutive sentences that are resampled together: the sizes' least common multiple, if enough blocks are left.

    Otherwise the largest size; an input that then straddles two blocks counts in its first sentence's.
    """
    common = math.lcm(*sizes)
    return common if sentences >= _LEAST_BLOCKS * common else max(sizes)


def p_value(samples: Floats) -> float:
    """Two-sided: twice the share of samples on the rarer side of 0, with one more counted in so that it is never 0."""
    below, above = int((samples <= 0.0).sum()), int((samples >= 0.0).sum())
    return min(1.0, 2.0 * (min(below, above) + 1) / (len(samples) + 1))


def _effect(measured: float, samples: Floats, bootstrap: Bootstrap) -> Effect:
    return Effect(measured, *bootstrap.interval(samples), p_value(samples))


def _mean_score(systems: Sequence[Statistics]) -> float:
    return float(np.mean([system.score() for system in systems]))


def _mean_samples(systems: Sequence[Statistics], bootstrap: Bootstrap) -> Floats:
    """[B]: the mean over the seeds of each sample's score; all seeds get the same sentences."""
    scores: Floats = np.mean([system.scores(bootstrap.totals(system.values)) for system in systems], axis=0)
    return scores


def _by_block(joined: Joined, metric: Metric, block: int, sentences: int) -> Statistics:
    """Statistics with one row per block of sentences in place of one per input; all sizes have the same blocks."""
    counted = joined.count(metric)
    table = np.zeros((math.ceil(sentences / block), counted.values.shape[1]))
    np.add.at(table, joined.starts // block, counted.values)
    return Statistics(metric, counted.signature, table)


def _slope(sizes: Sequence[int], gaps: Floats) -> Floats:
    """[B]: least-squares slopes of gaps [K, B] over sizes [K]."""
    centred = np.array(sizes) - np.mean(sizes)
    slopes: Floats = centred @ gaps / (centred @ centred)
    return slopes

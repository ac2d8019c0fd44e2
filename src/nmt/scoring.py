"""How good translations are: BLEU, chrF and TER with signatures and bootstrap intervals, by length, for joined inputs.

sacrebleu extracts the statistics of each sentence and turns their sums into a score, here as on its command line; ours
is only the resampling in between. It needs underscored methods of sacrebleu's `Metric`, which is why that is pinned and
the tests compare every score with `corpus_score`.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from nmt.config import Params
from nmt.corpus import UNSEGMENTED

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
References = Sequence[Sequence[str]]
"""One or more references per sentence; their number may differ from sentence to sentence."""

_CHINESE = ("yue", "zh")
_DIGITS = 6
_CELLS = 4_000_000  # drawn at a time when resampling: 32 MB of counts


def bleu(language: str) -> BLEU:
    """BLEU (Papineni et al. 2002) with the tokenizer that fits the target language, by default mteval's 13a."""
    return BLEU(tokenize=bleu_tokenizer(language))


def chrf(language: str) -> CHRF:
    """Popović's chrF (2015): character 6-grams, beta 2, the same for every language."""
    return CHRF()


def ter(language: str) -> TER:
    """TER (Snover et al. 2006) over words; over characters in Chinese and Japanese, which write no spaces.

    sacrebleu has no such way for Thai, Lao, Khmer and Burmese: there it counts what stands between spaces, which says
    little.
    """
    characters = language in (*_CHINESE, "ja")
    return TER(normalized=characters, asian_support=characters)


METRICS: Mapping[str, Callable[[str], Metric]] = {"bleu": bleu, "chrf": chrf, "ter": ter}


def bleu_tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer for a target language; Japanese is cut into characters without MeCab.

    Other languages without spaces are cut into characters, too: sacrebleu's own cutters for them are large downloads.
    """
    if language == "ja" and all(importlib.util.find_spec(module) for module in ("MeCab", "ipadic")):
        return "ja-mecab"
    if language in _CHINESE:
        return "zh"
    return "char" if language in UNSEGMENTED else "13a"


@dataclass(frozen=True)
class Statistics:
    """What one metric counted in each sentence of one system."""

    metric: Metric
    signature: str
    """sacrebleu's: version, tokenizer, case, smoothing, number of references."""
    values: Floats
    """[N, k]: a row of `k` numbers per sentence; a corpus's score is a function of their sum alone."""

    def __len__(self) -> int:
        return len(self.values)

    def score(self) -> float:
        """The score of all sentences: what sacrebleu's `corpus_score` gives, to the last bit."""
        return float(self.metric._aggregate_and_compute(self.values.tolist()).score)

    def scores(self, totals: Floats) -> Floats:
        """The score [B] of each row of sums [B, k]."""
        return np.array([self.metric._compute_score_from_stats(row).score for row in totals.tolist()])

    def of(self, rows: Rows) -> "Statistics":
        """The statistics of some sentences only."""
        return Statistics(self.metric, self.signature, self.values[rows])


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap interval."""

    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How scores are resampled: the number of samples, the interval's confidence, and the seed of the draws."""

    samples: int
    confidence: float
    seed: int

    def totals(self, table: Floats) -> Floats:
        """Sums [samples, k] over N rows drawn with replacement from `table` [N, k] (Efron 1979).

        The draws depend on the seed and on N alone: tables of the same sentences are resampled together, which is what
        makes a test of two systems paired.
        """
        generator = np.random.default_rng(self.seed)
        rows, block = len(table), max(1, _CELLS // len(table))
        sums = []
        for start in range(0, self.samples, block):
            drawn = min(block, self.samples - start)
            chosen = generator.integers(rows, size=(drawn, rows)) + rows * np.arange(drawn)[:, None]
            counts = np.bincount(chosen.ravel(), minlength=drawn * rows).reshape(drawn, rows)
            sums.append(counts.astype(np.float64) @ table)
        return np.concatenate(sums)

    def interval(self, samples: Floats) -> tuple[float, float]:
        """The percentile interval of resampled values."""
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(samples, [tail, 1.0 - tail])
        return float(low), float(high)

    def score(self, statistics: Statistics) -> Score:
        """The score of all sentences with its interval."""
        return Score(statistics.score(), *self.interval(statistics.scores(self.totals(statistics.values))))


def bootstrap_of_scores(params: Params) -> Bootstrap:
    """How one model's measures are resampled."""
    return Bootstrap(params.evaluate.bootstrap_samples, params.evaluate.confidence, params.evaluate.bootstrap_seed)


def bootstrap_of_tests(params: Params) -> Bootstrap:
    """How differences between models are."""
    return Bootstrap(params.compare.bootstrap_samples, params.evaluate.confidence, params.compare.bootstrap_seed)


def statistics(metric: Metric, hypotheses: Sequence[str], references: References) -> Statistics:
    """Count what `metric` needs in each sentence.

    Sentences may have different numbers of references: sacrebleu takes them as parallel streams, in which None marks a
    missing one (an empty string would count as a reference of length 0).
    """
    assert len(hypotheses) == len(references) > 0, f"{len(hypotheses)} hypotheses for {len(references)} sentences"
    assert all(references), "a sentence without a reference"
    streams = [list(stream) for stream in itertools.zip_longest(*references)]
    values = np.array(metric._extract_corpus_statistics(hypotheses, streams), dtype=np.float64)
    return Statistics(metric, str(metric.get_signature()), values)


def exact_match(hypotheses: Sequence[str], references: References) -> float:
    """The share of hypotheses that equal one of their references, but for spaces around them."""
    pairs = zip(hypotheses, references, strict=True)
    return sum(text.strip() in {one.strip() for one in several} for text, several in pairs) / len(hypotheses)


def perplexity(log_probabilities: Sequence[float], units: Sequence[int]) -> float:
    """`exp` of the mean negative log-probability (nats) per unit, over a corpus of sentences.

    The end of a sentence is a unit, whether units are tokens or words: it has been predicted, too.
    """
    return math.exp(-sum(log_probabilities) / sum(units))


def length_bins(lengths: Rows, bins: int) -> list[Rows]:
    """Sentences' rows from the shortest to the longest, cut into `bins` classes whose sizes differ by at most one.

    Equal lengths keep the test set's order, so one length may stand on both sides of a cut.
    """
    order = np.argsort(lengths, kind="stable")
    return np.array_split(order, min(bins, len(lengths)))


def scores_by_length(
    lengths: Rows, bins: int, bleu_counts: Statistics, chrf_counts: Statistics, bootstrap: Bootstrap
) -> list[dict[str, float]]:
    """BLEU and chrF of the classes of source length, one row each."""
    table = []
    for rows in length_bins(lengths, bins):
        inside = lengths[rows]
        of_bleu, of_chrf = bootstrap.score(bleu_counts.of(rows)), bootstrap.score(chrf_counts.of(rows))
        table.append(
            {
                "low": int(inside.min()),
                "high": int(inside.max()),
                "sentences": len(rows),
                "mean_length": float(inside.mean()),
                "bleu": of_bleu.score,
                "bleu_low": of_bleu.low,
                "bleu_high": of_bleu.high,
                "chrf": of_chrf.score,
                "chrf_low": of_chrf.low,
                "chrf_high": of_chrf.high,
            }
        )
    return table


@dataclass(frozen=True)
class Joined:
    """Translations of inputs that each hold `size` consecutive test sentences."""

    size: int
    starts: Rows
    """The test set's row of each input's first sentence."""
    hypotheses: Sequence[str]
    references: References

    def count(self, metric: Metric) -> Statistics:
        """What `metric` counts in each input."""
        return statistics(metric, self.hypotheses, self.references)


def joined_sets(
    hypotheses: Sequence[str], references: References, records: Sequence[Mapping[str, Any]]
) -> list[Joined]:
    """The plain test set (size 1), then one set for each size among `records`, the lines of `joined.jsonl`.

    Every set is scored against the pair's own reference alone, since joined sentences have only that: the sizes can be
    compared with each other, and size 1 is lower than the score against all references.
    """
    sets = [Joined(1, np.arange(len(hypotheses)), hypotheses, [several[:1] for several in references])]
    for size in sorted({int(record["joined"]) for record in records}):
        chosen = [record for record in records if record["joined"] == size]
        starts = np.array([min(record["members"]) for record in chosen], dtype=np.int64)
        texts = [str(record["hypothesis"]) for record in chosen]
        sets.append(Joined(size, starts, texts, [record["references"][:1] for record in chosen]))
    return sets


def scores_of_joined(sets: Sequence[Joined], language: str, bootstrap: Bootstrap) -> list[dict[str, float]]:
    """BLEU (with its interval) and chrF for each number of sentences in an input."""
    table = []
    for one in sets:
        of_bleu, of_chrf = bootstrap.score(one.count(bleu(language))), one.count(chrf(language)).score()
        row = {"joined": one.size, "sentences": len(one.hypotheses)}
        table.append(row | {"bleu": of_bleu.score, "low": of_bleu.low, "high": of_bleu.high, "chrf": of_chrf})
    return table


def rounded(value: Any) -> Any:
    """`value` with every float in it rounded for a report: last bits are noise, and would differ between machines."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value

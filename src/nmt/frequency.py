"""Are rare words recalled? Reference words by how often they stand in the training text.

Words are those of `nmt.words`, case-folded, without punctuation. A reference word is recalled if the hypothesis has it,
each occurrence once: order and form of the rest do not matter.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nmt.scoring import Bootstrap, Floats
from nmt.words import is_punctuation, word_spans


def words(text: str, language: str) -> list[str]:
    """The words that count."""
    spans = word_spans(text, language)
    return [text[begin:end].casefold() for begin, end in spans if not is_punctuation(text[begin:end])]


def word_counts(lines: Iterable[str], language: str) -> Counter[str]:
    """How often each word stands in the lines."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(words(line, language))
    return counts


def frequency_class(count: int, classes: Sequence[int]) -> int:
    """0 below the first lower bound, 1 from there to the second, and so on."""
    return int(np.searchsorted(np.array(classes), count, side="right"))


def recalled(
    hypotheses: Sequence[str],
    references: Sequence[str],
    counts: Mapping[str, int],
    classes: Sequence[int],
    language: str,
) -> Floats:
    """[N, K, 2]: for each sentence and class the reference's words, and how many of them the hypothesis has."""
    table = np.zeros((len(references), len(classes) + 1, 2))
    for row, hypothesis, reference in zip(table, hypotheses, references, strict=True):
        wanted, written = Counter(words(reference, language)), Counter(words(hypothesis, language))
        for word, number in wanted.items():
            row[frequency_class(counts.get(word, 0), classes)] += (number, min(number, written[word]))
    return table


def recall_by_class(table: Floats, classes: Sequence[int], bootstrap: Bootstrap) -> list[dict[str, float | int | None]]:
    """One row per class: its bounds (no `high` for the last), words, and recall with its bootstrap interval."""
    totals = table.sum(axis=0)
    samples = bootstrap.totals(table.reshape(len(table), -1)).reshape(-1, *totals.shape)
    rows: list[dict[str, float | int | None]] = []
    for k, (low, high) in enumerate(zip([0, *classes], [*classes, None], strict=True)):
        known = samples[samples[:, k, 0] > 0, k]
        recall = float(totals[k, 1] / totals[k, 0]) if totals[k, 0] else None
        bounds = bootstrap.interval(known[:, 1] / known[:, 0]) if len(known) else (recall, recall)
        rows.append(
            {
                "low": low,
                "high": None if high is None else high - 1,
                "words": int(totals[k, 0]),
                "recall": recall,
                "recall_low": bounds[0],
                "recall_high": bounds[1],
            }
        )
    return rows

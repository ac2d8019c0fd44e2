"""What a prepared corpus is made of: `reports/corpus.json`."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nmt.corpora import Corpus
from nmt.filters import REASONS
from nmt.splits import HELD_OUT, PARTS, leaks, random_split

_LENGTH_CLASSES = (1, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80)
"""Lower ends of a histogram's classes."""


def describe_corpus(
    pairs: pd.DataFrame, corpus: Corpus, *, languages: tuple[str, str], seed: int, test_references: Sequence[int]
) -> dict[str, Any]:
    """Counts, filter reasons, components, leaks, lengths, references and checksums of the split.

    `pairs` has the columns of `splits.link`, `id`, `part`, `dropped`, `source_length` and `target_length`;
    `test_references` counts each test sentence's references.
    """
    kept = pairs["part"].where(pairs["dropped"] == "")
    rows = {part: (kept == part).to_numpy() for part in PARTS}
    counts = {part: int(mask.sum()) for part, mask in rows.items()}
    return {
        "description": corpus.description,
        "licence": corpus.licence,
        "attribution": corpus.attribution,
        "source": languages[0],
        "target": languages[1],
        "split": "the corpus's own" if corpus.has_own_split else "by components",
        "pairs": {"read": len(pairs), **counts},
        "dropped_from_train": {reason: int((pairs["dropped"] == reason).sum()) for reason in REASONS},
        "components": _components(pairs["component"]),
        "leaks": leaks(pairs, kept),
        "leaks_of_a_random_split": _random_leaks(pairs, counts["test"], counts["dev"], seed),
        "test_references": _references(test_references),
        "references_simplified": languages[1] == "zh",
        **{f"{part}_ids_sha256": _ids_sha256(pairs, part) for part in HELD_OUT},
        "lengths": {
            part: {side: _lengths(pairs[f"{side}_length"].to_numpy()[rows[part]]) for side in ("source", "target")}
            for part in ("train", *HELD_OUT)
        },
    }


def _components(component: pd.Series) -> dict[str, int | float]:
    """Groups of pairs that are linked by sentences they share."""
    sizes = np.bincount(component)
    sizes = sizes[sizes > 0]
    return {
        "count": len(sizes),
        "of_one_pair": int((sizes == 1).sum()),
        "largest_pairs": int(sizes.max()),
        "share_of_pairs_in_larger_ones": round(float(sizes[sizes > 1].sum() / sizes.sum()), 4),
    }


def _random_leaks(pairs: pd.DataFrame, test_pairs: int, dev_pairs: int, seed: int) -> dict[str, dict[str, int]]:
    """The leaks of dev and test if pairs, not components, were drawn."""
    found = leaks(pairs, random_split(pairs["id"], test_pairs, dev_pairs, seed))
    return {part: found[part] for part in HELD_OUT}


def _references(counts: Sequence[int]) -> dict[str, float | int]:
    """How many references test sentences have."""
    return {
        "mean": round(float(np.mean(counts)), 4),
        "most": max(counts),
        "sentences_with_several": sum(count > 1 for count in counts),
    }


def _ids_sha256(pairs: pd.DataFrame, part: str) -> str:
    """Of the sorted ids of a part, one a line."""
    ids = sorted(pairs.loc[pairs["part"] == part, "id"])
    return hashlib.sha256("".join(f"{pair}\n" for pair in ids).encode()).hexdigest()


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Mean, median, longest and a histogram of sentence lengths (characters or words, see `text_length`)."""
    names = [f"{low}-{high - 1}" for low, high in itertools.pairwise(_LENGTH_CLASSES)]
    counts = np.histogram(lengths, [*_LENGTH_CLASSES, np.inf])[0]
    return {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "histogram": dict(zip([*names, f"{_LENGTH_CLASSES[-1]}+"], counts.tolist(), strict=True)),
    }

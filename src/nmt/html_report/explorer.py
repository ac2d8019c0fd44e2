"""What the page's explorer shows: test sentences, translations, and the matrices behind them in few bytes."""

import base64
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus import text_lengths
from nmt.errors import UserError
from nmt.testset import Sentences

Words = Mapping[str, Any]
"""A line of `words.jsonl`: `id`, the words of `source` and `target`, scores, and matrices [T, S] or None."""

SIGNED = ("erasure", "gradient")
_STEPS = 127  # on either side of 0 in a signed byte


@dataclass(frozen=True)
class Shown:
    """One model's translations, and its words with what lies behind them."""

    name: str
    attention: str
    """Which kind; `none` for a model without."""
    hypotheses: Sequence[str]
    words: Sequence[Words]
    lost: Set[str]
    """Ids of sentences whose attention is spread most and whose translation is bad."""


def explorer(sentences: Sentences, models: Sequence[Shown], language: str, at_most: int) -> dict[str, Any]:
    """Return the first test sentences with every model's translation, ready for JSON."""
    rows = range(min(at_most, len(sentences)))
    lengths = text_lengths(sentences.sources, language)
    check(sentences, models)
    return {
        "models": [{"name": model.name, "attends": model.attention != "none"} for model in models],
        "sentences": [
            {
                "id": models[0].words[row]["id"],
                "ids": [sentences.source_ids[row], *sentences.reference_ids[row]],
                "source": sentences.sources[row],
                "references": list(sentences.references[row]),
                "length": int(lengths[row]),
                "words": models[0].words[row]["source"],
                "models": [translation(model, row) for model in models],
            }
            for row in rows
        ],
    }


def check(sentences: Sentences, models: Sequence[Shown]) -> None:
    """Refuse words that are not those of the test set, or not the same source words for every model."""
    for model in models:
        if not len(model.words) == len(model.hypotheses) == len(sentences):
            raise UserError(
                f"{model.name}: {len(model.words)} lines of words and {len(model.hypotheses)} translations of "
                f"{len(sentences)} test sentences; run `dvc repro analyze_attention`"
            )
        for words, first in zip(model.words, models[0].words, strict=True):
            if (words["id"], words["source"]) != (first["id"], first["source"]):
                raise UserError(
                    f"{model.name} and {models[0].name} have other source words for test sentence {first['id']}; "
                    "run `dvc repro analyze_attention`"
                )


def translation(model: Shown, row: int) -> dict[str, Any]:
    """Return what one model made of one sentence."""
    words = model.words[row]
    packed: dict[str, Any] = {name: pack_signed(words[name]) for name in SIGNED if words[name] is not None}
    if words["attention"] is not None:
        packed["attention"] = pack_shares(words["attention"])
    numbers = {key: words[key] for key in ("score", "chrf", "entropy") if words[key] is not None}
    lost = {"lost": True} if words["id"] in model.lost else {}
    return {"text": model.hypotheses[row], "words": words["target"], **numbers, **lost, **packed}


def pack_shares(matrix: npt.ArrayLike) -> str:
    """Numbers from 0 to 1, row by row, a byte each, as base64."""
    values = np.asarray(matrix, dtype=np.float64)
    return _base64(np.rint(values.clip(0.0, 1.0) * 255).astype(np.uint8))


def pack_signed(matrix: npt.ArrayLike) -> list[Any]:
    """The largest magnitude, and every number as a signed byte's share of it, row by row, as base64."""
    values = np.asarray(matrix, dtype=np.float64)
    largest = round(float(np.abs(values).max(initial=0.0)), 4)
    shares = values / largest if largest else values
    return [largest, _base64(np.rint(shares.clip(-1.0, 1.0) * _STEPS).astype(np.int8))]


def _base64(values: npt.NDArray[np.integer]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")

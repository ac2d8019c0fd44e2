"""Translations as JSON: text, score, and attention between words."""

from typing import Any

from nmt.bundle import Languages
from nmt.translation import Hypothesis, Translation
from nmt.word_view import word_view

_DIGITS = 4
"""Of a weight; a finer one cannot be seen, and takes room."""


def answer(translation: Translation, languages: Languages, *, with_attention: bool) -> dict[str, Any]:
    """All hypotheses of a line, best first.

    With attention also the text that the model read, its words, of which the last is `</s>`, and in each hypothesis its
    words and their attention [words, source words]: null for a model without attention.
    """
    if not with_attention:
        return {"hypotheses": [_text(hypothesis) for hypothesis in translation.hypotheses]}
    views = [word_view(translation, hypothesis, languages) for hypothesis in translation.hypotheses]
    hypotheses: list[dict[str, Any]] = []
    for hypothesis, view in zip(translation.hypotheses, views, strict=True):
        weights = None if view.weights is None else view.weights.round(_DIGITS).tolist()
        hypotheses.append({**_text(hypothesis), "words": view.target, "attention": weights})
    return {"source": {"text": views[0].text, "words": views[0].source}, "hypotheses": hypotheses}


def _text(hypothesis: Hypothesis) -> dict[str, Any]:
    return {"translation": hypothesis.text, "score": round(hypothesis.score, 6)}

"""A translation as people read it: words instead of pieces, and which source words each word looked at."""

from dataclasses import dataclass

from nmt.alignment import word_attention
from nmt.bundle import Languages
from nmt.translation import Hypothesis, Translation
from nmt.words import EOS, Matrix, segment


@dataclass(frozen=True)
class WordView:
    """The words of a source and of one of its translations."""

    text: str
    """The source as the model read it: normalised."""
    source: list[str]
    """Ends with `</s>`, the source's end, which can be looked at like a word."""
    target: list[str]
    weights: Matrix | None
    """[target words, source words], rows sum to 1; None for a model without attention."""


def word_view(translation: Translation, hypothesis: Hypothesis, languages: Languages) -> WordView:
    """Cut both sides into words and take their attention together; a line without text has no word but `</s>`."""
    source = segment(translation.source_pieces, languages.source)
    target = segment(hypothesis.pieces, languages.target)
    weights = None if hypothesis.attention is None else word_attention(hypothesis.attention, source, target)
    return WordView(source.text, [*source.words, EOS], target.words, weights)

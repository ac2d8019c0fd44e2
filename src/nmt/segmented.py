"""Text that somebody else has cut into words: what a model reads of it, and which of its pieces are which word."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from nmt.corpus import UNSEGMENTED, Form, normalise
from nmt.errors import UserError
from nmt.gold import normalised_spans
from nmt.words import Sentence, Span, share_out

_TREEBANK = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "``": '"', "''": '"'}
"""What the Penn Treebank writes for brackets and quotes."""
_CLITICS = frozenset({"n't", "'s", "'re", "'ve", "'ll", "'d", "'m", "'"})


@dataclass(frozen=True)
class Line:
    """A line of words as the model reads it."""

    text: str
    """Normalised."""
    spans: list[Span]
    """Of the words, in order; an empty one if nothing of the word is left."""

    def sentence(self, pieces: Sequence[str]) -> Sentence:
        """The line with the model's pieces of it given to its words."""
        found = share_out(pieces, self.spans)
        if found.text != self.text:
            raise UserError(f"the model's pieces spell {found.text!r}, not {self.text!r}: it has another normalisation")
        return found


def write(words: Sequence[str], language: str, form: Form) -> Line:
    """Words written as the language writes them, normalised; spaces part them only where it has spaces.

    Brackets and quotes of the Penn Treebank become themselves, and marks and clitics stand where they belong: a model
    that learned from raw text knows `Jakarta, (March)`, not `Jakarta , -LRB- March -RRB-`. Quotes that do not differ on
    the left and the right stand between spaces.
    """
    text, spans, glued = "", [], True
    for word in (_TREEBANK.get(word, word) for word in words):
        if language not in UNSEGMENTED and not glued and not _hangs_on(word):
            text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
        glued = unicodedata.category(word[-1]) in ("Ps", "Pi")
    return Line(normalise(text, language, form), normalised_spans(text, spans, language, form))


def _hangs_on(word: str) -> bool:
    """Whether a word is written without a space before it."""
    return word.lower() in _CLITICS or unicodedata.category(word[0]) in ("Pe", "Pf") or word[0] in ".,;:!?%"


def known(sentence: Sentence) -> list[bool]:
    """Whether each word is a piece of the model's vocabulary: it met the word in training, and often."""
    return [bool((column > 0).sum() == 1 and column.max() == 1.0) for column in sentence.shares[:, :-1].T]

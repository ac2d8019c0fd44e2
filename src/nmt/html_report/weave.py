"""The picture at the top of the page: two rows of words, and between them the attention weights of one translation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nmt.html_report.explorer import Shown, Words

_WORDS = range(4, 8)  # of a sentence that fits, on either side
_LONGEST = 9  # letters of a word that fits
_FAINT = 0.04  # a smaller weight is not drawn
_WIDTH, _HEIGHT = 460, 240
_TOP, _BOTTOM = 44, 186  # where lines begin and end


@dataclass(frozen=True)
class Placed:
    """A word and the middle of its place."""

    text: str
    x: float


@dataclass(frozen=True)
class Thread:
    """A curve from a target word to a source word."""

    path: str
    weight: float


@dataclass(frozen=True)
class Weave:
    """A sentence, its translation, and what was looked at."""

    id: str
    """Of the test sentence."""
    model: str
    source: Sequence[Placed]
    target: Sequence[Placed]
    threads: Sequence[Thread]
    width: int = _WIDTH
    height: int = _HEIGHT


def weave(models: Sequence[Shown], at_most: int) -> Weave | None:
    """Draw the first sentence that fits and whose lines cross; None where no model attends or no sentence fits.

    How good the translation is plays no part in choosing.
    """
    for model in models:
        for words in model.words[:at_most]:
            if words["attention"] is not None and fits(words):
                return drawn(model.name, words)
    return None


def fits(words: Words) -> bool:
    """Whether both rows are short enough, and whether the attention goes back somewhere."""
    sides = words["source"], words["target"]
    if any(len(side) not in _WORDS or max(map(len, side)) > _LONGEST for side in sides):
        return False
    best = np.asarray(words["attention"])[:, :-1].argmax(axis=1)
    return any(after < before for before, after in pairwise(best))


def drawn(model: str, words: Words) -> Weave:
    """Place words at even steps, and a curve for every weight that can be seen."""
    source, target = (placed(words[side]) for side in ("source", "target"))
    weights: npt.NDArray[np.float64] = np.asarray(words["attention"])[:, :-1]
    threads = [
        Thread(curve(target[t].x, source[s].x), round(float(weights[t, s]), 2))
        for t, s in np.argwhere(weights >= _FAINT).tolist()
    ]
    return Weave(words["id"], model, source, target, sorted(threads, key=lambda thread: thread.weight))


def placed(words: Sequence[str]) -> list[Placed]:
    """Share the width among words by their letters, so that long ones do not touch."""
    widths = np.array([len(word) + 2.0 for word in words])
    middles = (np.cumsum(widths) - widths / 2) / widths.sum() * _WIDTH
    return [Placed(word, round(float(x), 1)) for word, x in zip(words, middles, strict=True)]


def curve(target: float, source: float) -> str:
    """The path of a thread: straight at both ends."""
    middle = (_TOP + _BOTTOM) // 2
    return f"M{source},{_TOP} C{source},{middle} {target},{middle} {target},{_BOTTOM}"

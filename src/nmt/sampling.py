"""Segmentations of a text that its subword model draws at random, beside the best one: subword regularisation.

SentencePiece draws, too, but from a generator that a process seeds for itself, whatever seed it is given: another run
would learn from other pieces. Here what is drawn for a line follows from the arguments and the line's number.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from operator import add
from random import Random
from typing import Protocol

from nmt.processes import in_order
from nmt.subwords import SPACE, Subwords

_AT_ONCE = 1 << 12
"""Lines that go to a process together."""
_UNKNOWN = 10.0
"""How much less likely than any piece a character is that is none, as log p; SentencePiece's number."""


class Law(Protocol):
    """How a line is cut at random."""

    def draw(self, text: str, random: Random) -> list[str]:
        """Pieces that spell `text`, in which SPACE stands for each space; a character may be one that is no piece."""


class Unigram:
    """Each segmentation with its probability to the power of alpha, brought to a sum of one (Kudo 2018, section 3.2).

    Over all segmentations, not the n best. The weights of all ways to each place are added up from left to right; then
    the pieces are drawn from right to left, each with its share of the ways to its end.
    """

    def __init__(self, scores: Mapping[str, float], alpha: float) -> None:
        self._weights = {piece: alpha * score for piece, score in scores.items()}
        self._unknown = alpha * (min(scores.values()) - _UNKNOWN)
        self._beginnings = {piece[:length] for piece in scores for length in range(1, len(piece) + 1)}

    def draw(self, text: str, random: Random) -> list[str]:
        arriving, pieces, end = self._arriving(text), list[str](), len(text)
        while end:
            begins, logs = zip(*arriving[end], strict=True)
            top = max(logs)
            (begin,) = random.choices(begins, [math.exp(log - top) for log in logs])
            pieces.append(text[begin:end])
            end = begin
        return pieces[::-1]

    def _arriving(self, text: str) -> dict[int, list[tuple[int, float]]]:
        """For each end of a piece the pieces that end there: where they begin, and the log of all ways through them."""
        arriving = defaultdict[int, list[tuple[int, float]]](list)
        for begin in range(len(text)):
            ways = _log_sum([log for _, log in arriving[begin]]) if begin else 0.0
            if text[begin] not in self._weights:
                arriving[begin + 1].append((begin, ways + self._unknown))
            for end in range(begin + 1, len(text) + 1):
                piece = text[begin:end]
                if piece not in self._beginnings:
                    break
                if piece in self._weights:
                    arriving[end].append((begin, ways + self._weights[piece]))
        return arriving


class Bpe:
    """The best of the possible merges, again and again, of which each is overlooked with probability alpha every time.

    BPE-dropout (Provilkov, Emelianenko & Voita 2020, algorithm 1).
    """

    def __init__(self, scores: Mapping[str, float], alpha: float) -> None:
        self._scores, self._alpha = scores, alpha

    def draw(self, text: str, random: Random) -> list[str]:
        first, *others = text.split(SPACE)
        words = [list(first), *([SPACE, *word] for word in others)]  # no piece reaches from one into the next
        return [piece for word in words for piece in self._merged(word, random)]

    def _merged(self, pieces: list[str], random: Random) -> list[str]:
        while merges := [
            (self._scores[pair], -place)
            for place, pair in enumerate(map(add, pieces, pieces[1:]))
            if pair in self._scores and random.random() >= self._alpha
        ]:
            place = -max(merges)[1]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return pieces


LAWS: dict[str, type[Unigram] | type[Bpe]] = {"unigram": Unigram, "bpe": Bpe}
"""By the kind of a subword model."""


def sampled(
    subwords: Subwords, kind: str, alpha: float, lines: Iterable[str], keys: Sequence[int]
) -> Iterator[list[int]]:
    """Pieces of each line, drawn on all cores; on how many changes nothing."""
    return chain.from_iterable(in_order(partial(_drawn, subwords, kind, alpha, keys), _blocks(iter(lines))))


def _drawn(
    subwords: Subwords, kind: str, alpha: float, keys: Sequence[int], block: tuple[int, list[str]]
) -> list[list[int]]:
    """Pieces of a block: the number of its first line, and its lines."""
    number, lines = block
    law: Law = LAWS[kind](subwords.scores(), alpha)
    texts = enumerate(subwords.spelled(lines), start=number)
    return [subwords.ids_or_bytes(law.draw(text, Random(repr((*keys, line))))) for line, text in texts]


def _blocks(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while block := list(islice(lines, _AT_ONCE)):
        yield number, block
        number += len(block)


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs))

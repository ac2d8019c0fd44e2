"""Random segmentations: of the same text, by the law that they follow, the same in any process."""

import math
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nmt import processes, sampling
from nmt.corpus import normalise
from nmt.sampling import LAWS, Unigram, sampled
from nmt.subwords import SPECIAL

from .test_subwords import CHINESE, LINES, trained

TEXT = [*LINES, *CHINESE, "", normalise("emoji 👩🏽\u200d🚀 and 𠮷, a\u2581b", "en", "NFC")]
KINDS = ["unigram", "bpe"]


def drawn(kind: str, alpha: float, lines: list[str], *keys: int) -> list[list[int]]:
    """A random segmentation of each line."""
    return list(sampled(trained(kind), kind, alpha, lines, keys))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_text_in_other_pieces(kind: str) -> None:
    """Special pieces stay out, and other keys and other places of the same line give other pieces."""
    subwords = trained(kind)
    best, sample, other = subwords.encode(TEXT), drawn(kind, 0.2, TEXT, 0, 1), drawn(kind, 0.2, TEXT, 0, 2)
    assert subwords.decode(sample) == subwords.decode(best) == TEXT
    assert not {piece for pieces in sample for piece in pieces} & set(SPECIAL)
    for pieces in (best, other):
        assert sum(one != two for one, two in zip(sample, pieces, strict=True)) > 0.4 * len(TEXT)
    assert len(set(map(tuple, drawn(kind, 0.2, LINES[:1] * 50, 0, 1)))) > 2


@pytest.mark.parametrize(("kind", "alpha"), [("unigram", 300.0), ("bpe", 0.0)])
@given(text=st.text(st.characters(exclude_categories=[])))
@example(text=" ".join(TEXT))
def test_the_likeliest_sample_is_the_best_segmentation(kind: str, alpha: float, text: str) -> None:
    """With all weight on one segmentation it is SentencePiece's: the same lattice, scores and merges, for any text."""
    lines = [LINES[0], normalise(text, "en", "NFC").strip()]
    assert drawn(kind, alpha, lines, 0, 1) == trained(kind).encode(lines)


def segmentations(text: str, scores: dict[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every one, with the sum of its scores."""
    if not text:
        yield (), 0.0
    for length in range(1, len(text) + 1):
        if text[:length] in scores:
            for rest, score in segmentations(text[length:], scores):
                yield (text[:length], *rest), scores[text[:length]] + score


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_unigram_segmentations_follow_their_probabilities(alpha: float) -> None:
    """Each is drawn as often as its probability to the power of alpha asks for (chi-square, p above 0.0001)."""
    scores = {"a": -1.0, "b": -2.0, "ab": -2.5, "ba": -4.0, "aba": -3.0, "bab": -5.0}
    weights = {pieces: math.exp(alpha * score) for pieces, score in segmentations("ababa", scores)}
    count = 4000
    seen = Counter(tuple(Unigram(scores, alpha).draw("ababa", Random(seed))) for seed in range(count))
    assert set(seen) <= set(weights)
    expected = {pieces: count * weight / sum(weights.values()) for pieces, weight in weights.items()}
    distance = sum((seen[pieces] - number) ** 2 / number for pieces, number in expected.items())
    freedom = len(expected) - 1
    assert freedom > 5
    assert distance < freedom + 5.0 * math.sqrt(2.0 * freedom)


def test_bpe_overlooks_merges() -> None:
    """With probability 1 all, so that characters are left; a merge is made where it was not overlooked."""
    assert trained("bpe").pieces(drawn("bpe", 1.0, ["birds"], 1)[0]) == ["▁", *"birds"]
    law = LAWS["bpe"]({"ab": -1.0}, 0.3)
    merged = sum(law.draw("ab", Random(seed)) == ["ab"] for seed in range(2000))
    assert abs(merged / 2000 - 0.7) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_processes_and_blocks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with a few lines at a time draw what one does with all."""
    monkeypatch.setenv(processes.PROCESSES, "1")
    expected = drawn(kind, 0.2, TEXT, 0, 1)
    monkeypatch.setenv(processes.PROCESSES, "2")
    monkeypatch.setattr(sampling, "_AT_ONCE", 50)
    assert drawn(kind, 0.2, TEXT, 0, 1) == expected


def test_draws_are_pinned() -> None:
    """Known answers: neither another process nor a release of Python may change what is drawn unnoticed."""
    law = Unigram({"a": -1.0, "b": -2.0, "ab": -2.5}, 0.5)
    drawn_pieces = [" ".join(law.draw("ababab", Random(repr((0, 1, line))))) for line in range(4)]
    assert drawn_pieces == ["ab ab ab", "a b a b a b", "ab ab a b", "a b ab ab"]

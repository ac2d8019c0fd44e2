"""Agreement of attention, erasure and gradient, on matrices whose orders are known."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from nmt.agreement import agreements, rank_correlations, sentence_agreement
from nmt.readings import Pair
from nmt.scoring import Bootstrap
from nmt.words import segment

BOOTSTRAP = Bootstrap(200, 0.95, 1)
SOURCE, TARGET = segment(["▁a", "▁b", "▁c", "</s>"], "en"), segment(["▁x", "▁y", "</s>"], "en")
RISING = np.array([[0.1, 0.2, 0.7], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0]])


def pair(attention: np.ndarray | None, erasure: np.ndarray, gradient: np.ndarray) -> Pair:
    """A pair; attention gets an empty column for the eos."""
    with_eos = None if attention is None else np.hstack([attention, np.zeros((3, 1))])
    return Pair(SOURCE, TARGET, with_eos, {"erasure": erasure, "gradient": gradient})


def test_known_answers() -> None:
    """The same order has a tau of 1, the reverse of -1; the top word is the same or not."""
    found = agreements([pair(RISING, 5.0 * RISING, -RISING)] * 4, BOOTSTRAP)
    assert list(found) == ["attention_erasure", "attention_gradient", "erasure_gradient"]
    same = {"tau": 1.0, "tau_low": 1.0, "tau_high": 1.0, "top": 1.0, "top_low": 1.0, "top_high": 1.0}
    assert found["attention_erasure"] == same
    assert found["attention_gradient"]["tau"] == -1.0
    assert found["erasure_gradient"]["top"] == 0.0


def test_without_attention_and_without_order() -> None:
    """Plain has one correlation; a source of one word, or an unmeasured text, counts for nothing."""
    single = Pair(
        segment(["▁a", "</s>"], "en"), TARGET, None, {name: np.ones((3, 1)) for name in ("erasure", "gradient")}
    )
    unmeasured = Pair(SOURCE, TARGET, None, {})
    assert agreements([single, unmeasured], BOOTSTRAP) == {}
    one = agreements([pair(None, RISING, RISING)], BOOTSTRAP)
    assert agreements([single, pair(None, RISING, RISING), unmeasured], BOOTSTRAP) == one
    assert list(one) == ["erasure_gradient"]


def test_rank_correlations_are_kendalls() -> None:
    """Without ties tau-a is scipy's tau-b; a tie counts 0 among all pairs."""
    generator = np.random.default_rng(1)
    ours, theirs = generator.random((2, 20, 7))
    expected = [kendalltau(a, b).statistic for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(rank_correlations(ours, theirs), expected)
    tied = rank_correlations(np.array([[1.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(tied, [2 / 3])


def test_means_are_over_target_words() -> None:
    """A sentence's words, their taus added up, and the words with the same source word on top."""
    other = np.array([[0.7, 0.2, 0.1], [0.0, 0.4, 0.6]])
    np.testing.assert_allclose(sentence_agreement(RISING[:2], other), [2.0, 0.0, 1.0])
    mixed = agreements([pair(RISING, RISING, RISING), pair(RISING, -RISING, RISING)], BOOTSTRAP)["attention_erasure"]
    assert mixed["tau"] == pytest.approx(0.0)
    assert mixed["tau_low"] == -1.0
    assert mixed["tau_high"] == 1.0

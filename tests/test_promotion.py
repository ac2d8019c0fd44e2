"""The gate: a champion is beaten on the same sentences, by more than chance, or not at all."""

import dataclasses
import random

import pytest

from nmt import scoring
from nmt.errors import UserError
from nmt.promotion import Candidate, References, Rule, decide
from nmt.scoring import Bootstrap

RULE = Rule(Bootstrap(samples=200, confidence=0.95, seed=1), p_below=0.05)
REFERENCES = [
    [" ".join(random.Random(number).choices("the a red blue house tree sees buys two three".split(), k=9))]
    for number in range(60)
]
TEST_SET = References("aa.test", REFERENCES)


def _candidate(version: int, wrong: int) -> Candidate:
    """A model that translates all sentences right but for the first `wrong`, in which it writes one word too many."""
    hypotheses = [one[0] if row >= wrong else f"no {one[0]}" for row, one in enumerate(REFERENCES)]
    score = scoring.statistics(scoring.bleu("en"), hypotheses, REFERENCES).score()
    return Candidate(version, f"{version:016d}", round(score, 6), hypotheses, "aa.test")


def test_the_first_needs_no_test() -> None:
    """There is nobody to beat."""
    decision = decide(_candidate(1, wrong=60), None, TEST_SET, "bleu", "en", RULE)
    assert (decision.promoted, decision.effect) == (True, None)


def test_a_clear_win_promotes_and_a_clear_loss_does_not() -> None:
    """Both ways of the same pair; the reason names the champion and the numbers."""
    better, worse = _candidate(2, wrong=5), _candidate(1, wrong=40)
    won = decide(better, worse, TEST_SET, "bleu", "en", RULE)
    lost = decide(worse, better, TEST_SET, "bleu", "en", RULE)
    assert won.promoted
    assert won.reason.startswith("better than version 1: +")
    assert won.effect is not None
    assert won.effect.value == pytest.approx(better.score - worse.score, abs=1e-5)
    assert not lost.promoted
    assert lost.reason.startswith("not better than version 2 with p < 0.05: -")


def test_a_lead_within_chance_does_not_promote() -> None:
    """One sentence of sixty more is a higher score, and no proof."""
    ahead, champion = _candidate(2, wrong=29), _candidate(1, wrong=30)
    decision = decide(ahead, champion, TEST_SET, "bleu", "en", RULE)
    assert ahead.score > champion.score
    assert not decision.promoted
    assert decision.effect is not None
    assert decision.effect.p >= 0.05


def test_another_test_set_or_other_scoring_is_an_error() -> None:
    """Scores of different sentences are no pair; hypotheses that do not give their score are another result's."""
    one = _candidate(1, wrong=5)
    for odd in (
        dataclasses.replace(one, test_set="bb.test"),
        dataclasses.replace(one, hypotheses=one.hypotheses[:-1]),
    ):
        with pytest.raises(UserError, match="another test set"):
            decide(_candidate(2, wrong=1), odd, TEST_SET, "bleu", "en", RULE)
    with pytest.raises(UserError, match="scored by other code"):
        decide(dataclasses.replace(one, score=one.score + 1), None, TEST_SET, "bleu", "en", RULE)

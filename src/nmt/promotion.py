"""Whether a model becomes the champion: it must beat the present one on the same test set, by more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass

from nmt import scoring
from nmt.errors import UserError
from nmt.scoring import Bootstrap
from nmt.significance import Effect, paired_bootstrap

_ROUNDING = 1e-4  # recorded scores have six digits


@dataclass(frozen=True)
class Candidate:
    """A registered version with what is needed to test it."""

    version: int
    result_id: str
    score: float
    """As recorded, in the metric that decides."""
    hypotheses: Sequence[str]
    """Of the test set, in order."""
    test_set: str | None
    """The md5 of the test set that it was scored on."""


@dataclass(frozen=True)
class References:
    """The references that both models are held to."""

    md5: str
    texts: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Rule:
    """How the paired test is made, and the p-value that it must stay below."""

    bootstrap: Bootstrap
    p_below: float


@dataclass(frozen=True)
class Decision:
    """Whether the champion changes, and why."""

    promoted: bool
    reason: str
    effect: Effect | None = None
    """The challenger's score minus the champion's, if they were tested."""


def decide(
    challenger: Candidate, champion: Candidate | None, test_set: References, metric: str, language: str, rule: Rule
) -> Decision:
    """Test the challenger against the champion.

    Raises:
        UserError: one of them was scored on another test set, or its hypotheses do not give its score.
    """
    statistics = _counted(challenger, test_set, metric, language)
    if champion is None:
        return Decision(True, "there was no champion")
    effect = paired_bootstrap([statistics], [_counted(champion, test_set, metric, language)], rule.bootstrap)
    measured = f"{effect.value:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}] {metric}, p = {effect.p:.3g}"
    if effect.value > 0 and effect.p < rule.p_below:
        return Decision(True, f"better than version {champion.version}: {measured}", effect)
    return Decision(False, f"not better than version {champion.version} with p < {rule.p_below}: {measured}", effect)


def _counted(candidate: Candidate, test_set: References, metric: str, language: str) -> scoring.Statistics:
    """The candidate's statistics, which must give the score that was recorded."""
    name = f"version {candidate.version} (result {candidate.result_id})"
    if candidate.test_set != test_set.md5 or len(candidate.hypotheses) != len(test_set.texts):
        raise UserError(f"{name} was scored on another test set than this folder's, so no paired test can be made")
    statistics = scoring.statistics(scoring.METRICS[metric](language), candidate.hypotheses, test_set.texts)
    if abs(statistics.score() - candidate.score) > _ROUNDING:
        raise UserError(
            f"{name} has {candidate.score:.4f} {metric} on record, but its hypotheses have {statistics.score():.4f}: "
            "it was scored by other code"
        )
    return statistics

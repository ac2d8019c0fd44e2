"""The train stage's own parts, beside what tests/test_stages.py sees of it in a pipeline."""

from types import SimpleNamespace

import pytest

from nmt.errors import UserError
from nmt.stages import train
from nmt.training import UpdateResult


@pytest.mark.parametrize("text", ["soon", "nan", "-1"])
def test_seconds_between_checkpoints_are_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else would mean a checkpoint after each update, or none."""
    monkeypatch.setenv("NMT_CHECKPOINT_SECONDS", text)
    with pytest.raises(UserError, match=f"NMT_CHECKPOINT_SECONDS is '{text}'; write a number of seconds"):
        train.checkpoint_seconds()


def test_speed_is_that_of_updates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known from the first update on, and the dev set's time between two epochs is not in it."""
    now = 0.0
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now))
    with train.Display("attention-1", epochs=2) as display:
        for update in range(1, 31):
            now += 0.1
            display.show(UpdateResult(1, update, update, 30, 1000, 5.0, 0.001))
            assert display.tokens_per_second == pytest.approx(10_000)
        now += 5.0
        display.say("epoch 1")
        for update in range(31, 61):
            now += 0.1
            display.show(UpdateResult(2, update, update - 30, 30, 1000, 5.0, 0.001))
            assert display.tokens_per_second == pytest.approx(10_000)

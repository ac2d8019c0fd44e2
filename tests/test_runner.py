"""Stages that run side by side share the cores."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from nmt import paths, processes
from nmt.stages.runner import share_of_cores
from nmt.stages.translate import useful_cores


def test_stages_at_work_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each living stage counts, one that ended does not, and each has a core."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    names = ("train@plain-1", "translate@plain-1", "evaluate@plain-1")
    with ExitStack() as held:
        for name, share in zip(names, (8, 4, 2), strict=True):
            lock = paths.stage_lock(name)
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock))
            assert share_of_cores() == share
        assert [useful_cores(2000, 1), useful_cores(2000, 2), useful_cores(600, 1), useful_cores(9, 1)] == [2, 1, 1, 1]
        monkeypatch.setattr(processes, "cores", lambda: 1)
        assert share_of_cores() == 1
    monkeypatch.setattr(processes, "cores", lambda: 8)
    assert share_of_cores() == 8
    assert [useful_cores(2000, 1), useful_cores(2000, 3), useful_cores(999, 1)] == [4, 2, 1]

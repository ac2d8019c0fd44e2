"""`kill -9` in the middle of `dvc repro`, by real DVC: the next one goes on to the same bytes.

Five trials of those that `python -m tests.kills` makes by the dozen; see there.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kills import (
    Kill,
    differences,
    finish,
    forget,
    forget_runs,
    killed,
    left_behind,
    locked,
    processes,
    start,
    wait_for,
)
from tests.project import Project

pytestmark = pytest.mark.xdist_group("dvc")

TRIALS = (
    ("prepare", "all"),
    ("train@plain-1", "all"),
    ("train@attention-1", "dvc"),
    ("translate@plain-1", "dvc"),
    ("compare", "stage"),
)
OFF = {"NMT_TRACKING": "off"}


@pytest.mark.parametrize(("stage", "kind"), TRIALS)
def test_a_killed_stage_comes_out_the_same(small_project: Project, tmp_path: Path, stage: str, kind: str) -> None:
    """At a random moment; killed with dvc, without it, or left by it. No process and no draft stays behind."""
    project = small_project.copy(tmp_path / "project")
    forget(project, stage, onward=False)
    kill = Kill(stage, random.uniform(0.0, 2.0), kind)  # another moment in each run of the tests
    killed(project, kill, tmp_path / "killed.log", "--single-item", stage, **OFF)
    finish(project, tmp_path / "finished.log", "--single-item", stage, **OFF)
    assert locked(project)[stage] == locked(small_project)[stage], kill
    assert list(left_behind(project)) == [], kill


def test_a_living_training_has_no_second_beside_it(small_project: Project, tmp_path: Path) -> None:
    """Another one of the same result waits; when the first is killed it goes on from there, not from the beginning."""
    project = small_project.copy(tmp_path / "project")
    project.set_params({"train.max_epochs": 40})
    stage = [sys.executable, "-m", "nmt.stages.train", "plain", "1"]
    environment = project.environment() | OFF | {"PYTHONPATH": "src", "NMT_CHECKPOINT_SECONDS": "0"}
    first = subprocess.Popen(stage, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not any(project.folder.glob(".nmt/unfinished/train-*/state.safetensors")):
            assert first.poll() is None
            time.sleep(0.05)
        log = tmp_path / "second.log"
        second = start(project, log, "--single-item", "train@plain-1", **OFF)
        wait_for("waiting: another process", log, second)
    finally:
        first.kill()
        first.wait()
    wait_for("going on after update", log, second)
    second.terminate()
    second.wait()
    assert list(left_behind(project)) == []


@pytest.mark.integration
def test_a_kill_among_all_stages(small_project: Project, tmp_path: Path) -> None:
    """With all that follows run again, and MLflow's points once each."""
    project = small_project.copy(tmp_path / "project")
    stage = "train@attention-1"
    forget(project, stage, onward=True)
    forget_runs(small_project, project, [stage])
    killed(project, Kill(stage, random.uniform(0.0, 4.0), "dvc"), tmp_path / "killed.log")
    finish(project, tmp_path / "finished.log")
    assert differences(small_project, project, [stage]) == []
    assert list(processes(project)) == []

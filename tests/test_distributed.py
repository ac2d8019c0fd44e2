"""Several processes train as one: real processes, gloo, and the bytes of one process."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from nmt.batching import ParallelText, TokenStore
from nmt.config import Train
from nmt.distributed import Gradients, Team
from nmt.errors import UserError
from nmt.runtime import processes
from nmt.training import Trainer, UpdateResult

from .models import tiny_model, with_dropout
from .project import ROOT, Project
from .test_stages import wait_for
from .test_training import RECIPE, copies, run

LAUNCH = "import sys; from nmt.launcher import launch; sys.exit(launch(2, 'tests.team_worker', *sys.argv[1:]))"


def trainer_of(text: ParallelText, team: Team, by_graphs: bool = False, **changes: object) -> Trainer:
    """A training of a tiny model with dropout, whose batches hold one to five examples."""
    settings = Train.model_validate(RECIPE | {"max_epochs": 1, "batch_tokens": 15} | changes)
    model = with_dropout(tiny_model("additive"), 0.2)
    return Trainer(model, text, text, settings, 1, lambda _: None, team, by_graphs)


def losses(training: Trainer) -> list[float]:
    """The loss of each update, then the dev loss of each epoch, of a training to its end."""
    curve: list[float] = []

    def on_update(result: UpdateResult) -> None:
        curve.append(result.loss)

    training.on_update = on_update
    history = run(training)
    return [*curve, *(row.dev_loss for row in history)]


def state(training: Trainer) -> dict[str, torch.Tensor]:
    """All tensors that a checkpoint has."""
    return {name: tensor.detach().clone() for name, tensor in training.checkpoint().tensors.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ParallelText:
    """Something to learn."""
    return copies(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("by_graphs", [False, True])
def test_two_processes_train_as_one(tmp_path: Path, by_graphs: bool) -> None:
    """Three shares on two processes: the bytes of one process; with one share, the same losses but for rounding.

    One process has two shares and the other one, and batches of one or two examples leave shares empty. A checkpoint
    goes from the leader to the other, and a bit that differs between them is found.
    """
    text = copies(tmp_path)
    command = [sys.executable, "-c", LAUNCH, str(tmp_path), *["by graphs"] * by_graphs]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    alone, undivided = trainer_of(text, Team(3), by_graphs), trainer_of(text, Team(1))
    curve = losses(alone)
    assert curve == pytest.approx(losses(undivided), abs=1e-5)
    for rank in range(2):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen["losses"] == curve
        assert seen["agrees"] == [True, False]
        assert seen["shared"]
        assert "the devices have come to different weights.bridge.weight" in seen["drifted"]
        theirs = load_file(tmp_path / f"{rank}.safetensors")
        assert all(torch.equal(theirs[name], tensor) for name, tensor in state(alone).items())
    for name, tensor in state(undivided).items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shares", "turns"), [(1, 2), (2, 7)])
def test_turns_give_what_the_whole_batch_gives(text: ParallelText, shares: int, turns: int) -> None:
    """The same losses but for rounding, also where a batch has fewer examples than there are turns."""
    expected = losses(trainer_of(text, Team(shares)))
    assert losses(trainer_of(text, Team(shares), accumulate=turns)) == pytest.approx(expected, abs=1e-5)


def test_no_process_waits_long_for_another(tmp_path: Path) -> None:
    """Each example is in one part; a batch's largest share has hardly more padded tokens than the mean one."""
    random = np.random.default_rng(1)
    lengths = random.geometric(0.1, 2000)
    for side, counted in (("source", lengths), ("target", lengths + random.integers(0, 3, 2000))):
        TokenStore.write(tmp_path / side, [[5] * length for length in counted.tolist()])
    text = ParallelText.open(tmp_path / "source", tmp_path / "target")
    largest = mean = 0.0
    for examples in text.shuffled_plan(5000, Train.model_validate(RECIPE).joining, keys=(1, 1)):
        shares = [Team(3, rank, 3).cut(examples, micro_batches=2)[0] for rank in range(3)]
        parts = [part for share in shares for part in share]
        assert len(parts) == min(6, len(examples))
        assert sorted(np.concatenate(parts)[:, 0]) == sorted(examples[:, 0])
        padded = [sum(text.batch(part).source_BS.numel() for part in share) for share in shares]
        largest, mean = largest + max(padded), mean + sum(padded) / 3
    assert largest < 1.05 * mean, largest / mean


def test_a_sum_is_added_in_one_order() -> None:
    """Whatever the numbers, three rows are added from the first to the last, and the losses with them."""
    rows = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 3.0]])
    assert Team(3).add(rows).tolist() == [0.0, 6.0]
    parameter = torch.nn.Parameter(torch.zeros(1))
    gradients = Gradients([parameter], Team(3))
    for share, row in enumerate(rows):
        gradients.begin(share)
        (parameter * row[0]).sum().backward()
    assert gradients.add([1.0, 2.0, 3.0]) == 6.0
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.0]


def test_more_processes_than_shares_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some would have nothing to do; and a number of processes that is none is told."""
    with pytest.raises(UserError, match=r"4 processes cannot work on 2 shares of a batch: raise train\.devices"):
        Team(2, 0, 4)
    cpu = torch.device("cpu")
    assert (processes(cpu, 4), processes(cpu), processes(cpu, cores=3)) == (4, 1, 3)
    monkeypatch.setenv("NMT_PROCESSES", "3")
    assert (processes(cpu, 4), processes(cpu, 2), processes(cpu, cores=9)) == (3, 2, 3)
    monkeypatch.setenv("NMT_PROCESSES", "none")
    with pytest.raises(UserError, match="NMT_PROCESSES is 'none'; write a number"):
        processes(cpu)


STAGE = (sys.executable, "-m", "nmt.stages.train", "attention", "1")
OUTPUTS = ("models/attention/1/model.safetensors", "reports/training/attention/1/history.csv")
OFF = {"NMT_TRACKING": "off", "NMT_CHECKPOINT_SECONDS": "0.2", "PYTHONPATH": "src"}


def states(project: Project) -> dict[Path, int]:
    """Checkpoints of trainings, each with a number that changes when it is written again."""
    found = {}
    for path in project.folder.glob(".nmt/*/*/state.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # it is being replaced
            found[path] = path.stat().st_ino
    return found


def workers(project: Project, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A training's processes, the leader first, as soon as a new checkpoint shows that they train."""
    known = states(project)
    wait_for(lambda: not states(project).items() <= known.items(), process)
    return psutil.Process(process.pid).children()


@pytest.mark.xdist_group("dvc")
def test_a_killed_process_does_not_end_the_training(small_project: Project, tmp_path: Path) -> None:
    """The leader of two is killed: all begin again at the last checkpoint, and end with the bytes of one process."""
    one, two = (untrained(small_project, tmp_path / name) for name in ("one", "two"))
    process = two.start(*STAGE, **OFF)
    workers(two, process)[0].kill()
    assert process.wait(600) == 0
    one.run(*STAGE, **OFF, NMT_PROCESSES="1")
    for output in OUTPUTS:
        assert (two.folder / output).read_bytes() == (one.folder / output).read_bytes(), output


@pytest.mark.integration
@pytest.mark.xdist_group("dvc")
def test_a_process_that_is_asked_to_stop_stops_all(small_project: Project, tmp_path: Path) -> None:
    """SIGTERM to the one that does not lead: both end, with a checkpoint and no output, and none is started again."""
    project = untrained(small_project, tmp_path / "project")
    process = project.start(*STAGE, **OFF)
    workers(project, process)[1].terminate()
    assert process.wait(300) == 128 + signal.SIGTERM
    assert states(project)
    assert not any((project.folder / output).exists() for output in OUTPUTS)


def untrained(project: Project, folder: Path) -> Project:
    """A copy that trains in two processes, as if for the first time."""
    copied = project.copy(folder)
    copied.set_params({"train.devices": 2, "train.max_epochs": 2})
    for output in OUTPUTS:
        (copied.folder / output).unlink(missing_ok=True)
    return copied

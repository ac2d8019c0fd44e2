"""A tracking server that is killed or hangs before, during and at the end of a training costs seconds and no point."""

import csv
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.project import Project
from tests.servers import Server, mlflow_server, running

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dvc")]

TRAIN = ("python", "-m", "nmt.stages.train", "plain", "1")
LOST_SECONDS = 5.0
EPOCHS = 30
"""Some seconds of training: time for the sender to begin, and for points to come in after that."""


@pytest.fixture(scope="module")
def untrained(small_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small project with a longer training still to do, and nothing tracked."""
    project = small_project.copy(tmp_path_factory.mktemp("untrained") / "project")
    project.set_params({"train.max_epochs": EPOCHS, "train.patience": EPOCHS})
    (project.folder / "mlflow.db").unlink()
    shutil.rmtree(project.folder / ".nmt")
    return project


def _server(folder: Path) -> Server:
    folder.mkdir()
    return mlflow_server(folder, f"sqlite:///{folder / 'server.db'}", (folder / "artifacts").as_uri())


def _spooled(project: Project) -> list[dict[str, float]]:
    """The lines of the spool that are whole."""
    texts = [spool.read_text() for spool in project.folder.glob(".nmt/live/*.jsonl")]
    return [json.loads(line) for text in texts for line in text.split("\n")[:-1]]


def _before(project: Project, client: MlflowClient) -> bool:
    return True


def _during(project: Project, client: MlflowClient) -> bool:
    """Some points have arrived, and more have been logged since."""
    experiment = client.get_experiment_by_name("nmt")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return any("live/train_loss" in run.data.metrics for run in runs)


def _at_the_end(project: Project, client: MlflowClient) -> bool:
    """The last epoch is over."""
    return sum("curve/dev_loss" in line["metrics"] for line in _spooled(project)) == EPOCHS


def _steps(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


@pytest.mark.parametrize("outage", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("moment", [_before, _during, _at_the_end])
def test_an_outage_costs_seconds_and_no_point(
    untrained: Project,
    tmp_path: Path,
    moment: Callable[[Project, MlflowClient], bool],
    outage: signal.Signals,
    record_property: Callable[[str, object], None],
) -> None:
    """The stage ends well within five seconds of its last output; `nmt publish` then brings each point once."""
    project = untrained.copy(tmp_path / "project")
    with running(_server(tmp_path / "server")) as server:
        client = MlflowClient(server.address)
        tracked = {"MLFLOW_TRACKING_URI": server.address, "PYTHONPATH": "src"}
        if moment is _before:
            server.send(outage)
        process = project.start(*TRAIN, **tracked)
        while moment is not _before and not moment(project, client):
            assert process.poll() is None, "the training ended before the outage"
            time.sleep(0.01)
        if moment is not _before:
            server.send(outage)
        assert process.wait(300) == 0
        summary = project.folder / "reports/training/plain/1/summary.json"
        lost = time.time() - summary.stat().st_mtime
        record_property("lost_seconds", round(lost, 2))
        assert lost < LOST_SECONDS
        spooled = _spooled(project)
        if outage == signal.SIGSTOP:
            server.send(signal.SIGCONT)  # and what it was sent before comes to pass now
        else:
            server.down()
            server.up()
        first = project.run("python", "-m", "nmt", "publish", "--variant", "plain", **tracked)
        second = project.run("python", "-m", "nmt", "publish", "--variant", "plain", **tracked)
        assert "added " in first or moment is _at_the_end, first
        assert "added " not in second
        (run,) = client.search_runs([client.get_experiment_by_name("nmt").experiment_id], "tags.variant = 'plain'")
        with (summary.parent / "history.csv").open() as stream:
            history = [(int(row["updates"]), float(row["dev_loss"])) for row in csv.DictReader(stream)]
        assert len(history) == EPOCHS
        assert _steps(client, run, "curve/dev_loss") == history
        for name in ("live/train_loss", "live/tokens_per_second"):
            points = [(line["step"], line["metrics"][name]) for line in spooled if name in line["metrics"]]
            assert len(points) == history[-1][0] // 10
            assert _steps(client, run, name) == points
        assert run.data.metrics["training/dev_loss"] == pytest.approx(min(loss for _, loss in history))

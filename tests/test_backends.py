"""MLflow's server on PostgreSQL and S3, DVC's remote on the same S3, and a fresh SQLite store under four trainings."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from nmt.tracking.store import Curves, Store
from nmt.tracking.values import Point
from tests.project import Project
from tests.servers import mlflow_server, postgresql, running, s3_server
from tests.synthetic_results import artifacts, counts

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dvc")]

BUCKET = "nmt"
MODELS = ("plain", "attention")


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the environment in which programs find it."""

    address: str
    environment: dict[str, str]
    client: Any

    def keys(self, prefix: str) -> set[str]:
        """The objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """An empty bucket on a server of its own."""
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with running(s3_server(tmp_path_factory.mktemp("s3"))) as server:
        session = boto3.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
        client = session.client("s3", endpoint_url=server.address)
        client.create_bucket(Bucket=BUCKET)
        yield Bucket(server.address, {**keys, "MLFLOW_S3_ENDPOINT_URL": server.address}, client)


def _runs(client: MlflowClient) -> dict[str, Run]:
    """The models' runs by the stem of their names."""
    experiment = client.get_experiment_by_name("nmt")
    found = client.search_runs([experiment.experiment_id], "tags.kind = 'model'")
    runs = {f"{run.data.tags['variant']}-{run.data.tags['seed']}": run for run in found}
    assert len(runs) == len(found), "a result has two runs"
    return runs


def _points(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float, int]]:
    history = client.get_metric_history(run.info.run_id, name)
    return [(point.step, point.value, point.timestamp) for point in history]


def _spooled(project: Project, training_id: str, name: str) -> list[tuple[int, float, int]]:
    lines = map(json.loads, (project.folder / f".nmt/live/{training_id}.jsonl").read_text().splitlines())
    return [(line["step"], line["metrics"][name], line["time"]) for line in lines if name in line["metrics"]]


def test_results_live_in_postgresql_and_s3(small_project: Project, bucket: Bucket, tmp_path: Path) -> None:
    """Published once, found and translated with from there; a training sends its points to it, each once."""
    project = small_project.copy(tmp_path / "project")
    with (
        postgresql() as database,
        running(mlflow_server(tmp_path, database, f"s3://{BUCKET}/mlflow", bucket.environment)) as server,
    ):
        tracked = {"MLFLOW_TRACKING_URI": server.address, "PYTHONPATH": "src"}
        publish = ("python", "-m", "nmt", "publish")
        assert project.run(*publish, **tracked).count("added provenance") == len(MODELS)
        client = MlflowClient(server.address)
        before = counts(client, "nmt")
        again = project.run(*publish, **tracked).splitlines()
        assert [line.partition(": ")[2] for line in again] == ["nothing to add"] * 3
        assert counts(client, "nmt") == before
        assert before["versions"] == len(MODELS)
        assert len([key for key in bucket.keys("mlflow/") if key.endswith("bundle/model.safetensors")]) == len(MODELS)
        assert "training/history.csv" in artifacts(client, _runs(client)["plain-1"].info.run_id)

        translate = ("python", "-m", "nmt", "translate", "ich sehe rote Häuser.", "--model")
        local = project.run(*translate, "models/attention/1", **tracked)
        assert project.run(*translate, "models:/nmt-de-en@attention", **tracked) == local

        project.set_params({"seeds": [1, 2]})
        project.dvc("repro", "train@plain-2", MLFLOW_TRACKING_URI=server.address)
        run = _runs(client)["plain-2"]
        assert "logged.live" in run.data.tags
        for name in ("live/train_loss", "live/tokens_per_second"):
            assert _points(client, run, name) == _spooled(project, run.data.tags["training_id"], name) != []
        _assert_sent_twice_is_there_once(client, run)


def _assert_sent_twice_is_there_once(client: MlflowClient, run: Run) -> None:
    """Sending what the store has taken without our hearing of it doubles no point, in PostgreSQL as in SQLite."""
    points = [Point("live/again", step, step / 3, 1000 + step) for step in range(1500)]
    store = Store(client, run.info.experiment_id)
    first, second = Curves(store, run), Curves(store, run)
    first.add(points[:1200])
    second.add(points)
    assert _points(client, run, "live/again") == [(point.step, point.value, point.time) for point in points]


def test_a_dvc_remote_on_s3_goes_round(small_project: Project, bucket: Bucket, tmp_path: Path) -> None:
    """Pushed, lost, pulled; what no commit of the workspace needs any more is collected, here and there."""
    project = small_project.copy(tmp_path / "project")
    project.dvc("remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    project.dvc("remote", "modify", "store", "endpointurl", bucket.address)
    project.dvc("push", **bucket.environment)
    pushed = bucket.keys("dvc/")
    bundle = project.folder / "models/attention/1/model.safetensors"
    weights = bundle.read_bytes()
    for lost in (".dvc/cache", "models", "data/tokenized"):
        shutil.rmtree(project.folder / lost)

    project.dvc("pull", **bucket.environment)

    assert bundle.read_bytes() == weights
    assert "up to date" in project.dvc("status")
    project.set_params({"translate.beam_size": 3})
    project.dvc("repro", "translate@attention-1", NMT_TRACKING="off")
    project.dvc("push", **bucket.environment)
    assert bucket.keys("dvc/") > pushed
    project.dvc("gc", "--workspace", "--cloud", "--force", **bucket.environment)
    kept = bucket.keys("dvc/")
    assert pushed - kept, "the hypotheses of the other beam size are still there"
    shutil.rmtree(project.folder / ".dvc/cache")
    shutil.rmtree(project.folder / "models")
    project.dvc("pull", **bucket.environment)
    assert bundle.read_bytes() == weights


def test_four_trainings_start_together_on_a_fresh_store(small_project: Project, tmp_path: Path) -> None:
    """All end well and are published by their own last lines: a run each, each point once."""
    project = small_project.copy(tmp_path / "project")
    project.set_params({"seeds": [1, 2], "train.max_epochs": 4})
    (project.folder / "mlflow.db").unlink()
    shutil.rmtree(project.folder / "mlartifacts")
    models = [(variant, seed) for variant in MODELS for seed in ("1", "2")]
    trainings = [project.start("python", "-m", "nmt.stages.train", *model, PYTHONPATH="src") for model in models]
    assert [training.wait(300) for training in trainings] == [0] * 4
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    runs = _runs(client)
    assert sorted(runs) == sorted("-".join(model) for model in models)
    for run in runs.values():
        assert "logged.training" in run.data.tags
        name = "live/train_loss"
        assert _points(client, run, name) == _spooled(project, run.data.tags["training_id"], name) != []
        assert len(_points(client, run, "curve/dev_loss")) == 4

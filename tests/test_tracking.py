"""Files become runs: each once, whole, under the right id, and never at the cost of a stage."""

import contextlib
import json
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from nmt import files, identity, paths, repository, tracking
from nmt.commands import main
from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.tracking import place, spool, values
from nmt.tracking.model import alias
from nmt.tracking.provenance import read_checkout
from nmt.tracking.publish import Published, find_or_create
from nmt.tracking.registry import registry
from nmt.tracking.result import Result
from nmt.tracking.store import Curves, Store, open_store
from nmt.translator import Translator
from tests.bundles import write_bundle
from tests.synthetic_results import (
    EPOCHS,
    ROOT,
    artifacts,
    counts,
    git,
    make_attention,
    make_comparison,
    make_page,
    make_project,
    make_result,
    make_scores,
    make_training,
    result_id,
    set_param,
)

MODEL_PARTS = ("provenance", "dataset", "training", "scores", "attention", "model")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: to make one takes seconds, to copy it none."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    with warnings.catch_warnings(action="ignore"):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Path) -> Path:
    """A synthetic project as the current folder, with a store of its own."""
    shutil.copy(database, tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "NMT_TRACKING", "DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _store() -> Store:
    with place.lock():
        return open_store("nmt")


def _run(variant: str, seed: int = 1) -> Run:
    run = _store().find(result_id(variant, seed))
    assert run is not None
    return run


def _publish(*models: tuple[str, int]) -> list[Published]:
    return list(tracking.publish_all(models or [("plain", 1)]))


def _history(run: Run, name: str) -> list[tuple[int, float]]:
    history = _store().client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def _spawn(code: str, **environment: str) -> "subprocess.Popen[str]":
    """Another process on our code, in the current folder."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_result_is_published_whole_and_once(project: Path) -> None:
    """A run holds everything of a finished result; a second call changes nothing in the store, down to each point."""
    make_result("plain")
    make_comparison()
    first = _publish()
    assert [published.added for published in first] == [MODEL_PARTS, ("comparison",)]
    client = _store().client
    before = counts(client, "nmt")

    second = _publish()

    assert [str(published).partition(": ")[2] for published in second] == ["nothing to add"] * 2
    assert counts(client, "nmt") == before
    run = _run("plain")
    assert (run.info.run_name, run.info.status) == (f"plain-{result_id('plain')[:8]}", "FINISHED")
    tags = {"variant": "plain", "seed": "1", "kind": "model", "scores/bleu.signature": "nrefs:var|case:mixed"}
    tags |= {"training_id": identity.training_id("plain", 1), "training/device": "cpu"}
    assert tags.items() <= run.data.tags.items()
    params = {"train.learning_rate": "0.002", "translate.joined": "[2, 3, 4]", "variant": "plain", "attention": "none"}
    assert params.items() <= run.data.params.items()
    numbers = {"bleu": 20.0, "dev_loss": run.data.metrics["training/dev_loss"]}
    numbers |= {
        "scores/bleu.score": 20.0,
        "training/parameters_by_part.encoder": 10000,
        "word_attention/entropy.mean": 1.5,
    }
    assert numbers.items() <= run.data.metrics.items()
    assert _history(run, "curve/dev_loss") == [(100 * epoch, 5.5 - epoch) for epoch in range(1, EPOCHS + 1)]
    assert _history(run, "scores/joined.bleu") == [(1, 19.0), (2, 18.0), (3, 17.0), (4, 16.0)]
    assert _history(run, "scores/by_length.bleu") == [(1, 19.9), (11, 18.9), (21, 17.9)]
    assert artifacts(client, run.info.run_id) == [
        "attention/figures/sentence-1.png",
        "attention/summary.json",
        "params.yaml",
        "scores/1.json",
        "training/history.csv",
        "training/summary.json",
    ]


def test_a_model_is_a_version_of_its_direction(project: Path) -> None:
    """Versions carry variant, seed and id; the alias goes to the newest of its variant; there is no pickle."""
    make_result("plain")
    make_result("attention")
    _publish(("plain", 1), ("attention", 1))
    set_param("beam_size: 5", "beam_size: 6")
    make_scores("plain")
    _publish()
    client = _store().client
    versions = {int(version.version): version for version in client.search_model_versions("name = 'nmt-zh-en'")}
    assert [versions[n].tags["variant"] for n in sorted(versions)] == ["plain", "attention", "plain"]
    assert versions[3].tags == {"variant": "plain", "seed": "1", "result_id": result_id("plain")}
    assert "# plain-" in versions[3].description
    assert "| BLEU | 20.00 |" in versions[3].description
    assert client.get_model_version_by_alias("nmt-zh-en", "plain").version == versions[3].version
    assert client.get_model_version_by_alias("nmt-zh-en", "attention").version == versions[2].version
    bundle = tracking.download_bundle("models:/nmt-zh-en@plain")
    assert files.read_json(bundle / "decoding.json")["beam_size"] == 6
    assert files.read_text(bundle / "model.safetensors") == "plain 1 model.safetensors"
    names = {path.name for path in bundle.parents[1].rglob("*")}
    assert "translator.py" in names
    assert "model_card.md" in names
    assert "__pycache__" not in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


SERVED = """
import json, sys
import mlflow.pyfunc, mlflow.pyfunc.scoring_server
from fastapi.testclient import TestClient
model = mlflow.pyfunc.load_model(sys.argv[1])
client = TestClient(mlflow.pyfunc.scoring_server.init(model))
lines = json.loads(sys.argv[2])
bodies = [{"inputs": lines}, {"dataframe_split": {"columns": ["source"], "data": [[line] for line in lines]}}]
answers = [client.post("/invocations", json=body).json()["predictions"] for body in bodies]
print(json.dumps({"code": sys.modules["nmt.translator"].__file__, "answers": answers}))
"""


def test_the_logged_model_gives_the_same_words(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A fresh process elsewhere, pickle forbidden, without our sources: what the server answers is the Translator's."""
    make_result("attention")
    shutil.rmtree(paths.bundle("attention", 1))
    folder = write_bundle(paths.bundle("attention", 1), "additive")
    _publish(("attention", 1))
    lines = ["我喜欢吃苹果。", "", "你好!"]
    translator = Translator.load(folder, Decoding.of(load_params().translate))
    best = [translation.hypotheses[0] for translation in translator.translate(lines)]

    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVED, "models:/nmt-zh-en@attention", json.dumps(lines)],
        env={**os.environ, "MLFLOW_TRACKING_URI": place.tracking_uri(), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        cwd=tmp_path_factory.mktemp("elsewhere"),
        check=True,
        capture_output=True,
        text=True,
    )

    served = json.loads(process.stdout.splitlines()[-1])
    for answer in served["answers"]:
        assert [one["translation"] for one in answer] == [one.text for one in best]
        assert [one["score"] for one in answer] == pytest.approx([one.score for one in best])
    assert Path(served["code"]).is_relative_to(project / "mlartifacts")


def test_a_model_that_is_not_there_is_one_clear_error(project: Path) -> None:
    """The name that was asked for stands in it, and what to do."""
    make_result("plain")
    _publish()
    messages = {
        "models:/nmt-zh-en@none": "alias none not found",
        "models:/other@plain": "not found",
        "models:/nmt-zh-en/7": "not found",
        "models:/nmt-zh-en": "models:/NAME@ALIAS or models:/NAME/VERSION",
    }
    for uri, message in messages.items():
        with pytest.raises(UserError) as caught:
            tracking.download_bundle(uri)
        assert str(caught.value).startswith(uri)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    Path("mlflow.db").rename("elsewhere.db")
    with pytest.raises(UserError, match=r"mlflow\.db does not exist"):
        tracking.download_bundle("models:/nmt-zh-en@plain")
    assert not Path("mlflow.db").exists()


def test_a_store_that_does_not_answer_is_no_store_without_a_champion(project: Path) -> None:
    """No model, no alias: None. Anything else that goes wrong is told, or an untested model would become champion."""
    with registry("zh", "en") as models:
        assert models.champion() is None
    make_result("plain")
    _publish()
    with registry("zh", "en") as models:
        assert models.champion() is None
        models.set_champion(models.version(1))
        champion = models.champion()
        with pytest.raises(UserError, match="nmt-zh-en has no version 7: "):
            models.version(7)
    assert champion is not None
    assert champion.version == 1
    with sqlite3.connect("mlflow.db") as database:
        database.execute("drop table registered_model_aliases")
    database.close()
    with registry("zh", "en") as models:
        for ask in (models.champion, lambda: models.version(1)):
            with pytest.raises(MlflowException, match="no such table"):
                ask()


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2\n", "<<<<<<< HEAD\n=======\n>>>>>>> a,b\n"])
def test_a_log_that_cannot_be_continued_stops_a_promotion(
    project: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the alias has moved."""
    make_result("plain")
    _publish()
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "Empty")
    files.write_text(paths.PROMOTIONS, text)
    assert main(["promote", "1", "--force", "to see"]) == 1
    assert "reports/promotions.csv" in capsys.readouterr().err
    assert files.read_text(paths.PROMOTIONS) == text
    with registry("zh", "en") as models:
        assert models.champion() is None


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("localhost:5000", "lacks its scheme; write http://localhost:5000"),
        ("nothing://of.that.kind/5000", "nothing://of.that.kind/5000: UnsupportedModelRegistryStoreURIException: "),
        ("postgresql://me:secret@127.0.0.1:9/mlflow", "postgresql://127.0.0.1:9/mlflow: "),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    """For whoever asks it; without the password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    questions: list[Callable[[], object]] = [
        lambda: tracking.known_results({"1"}),
        lambda: tracking.download_bundle("models:/nmt-zh-en@plain"),
    ]
    for ask in questions:
        with pytest.raises(UserError) as caught:
            ask()
        assert reason in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_run_grows_stage_by_stage(project: Path) -> None:
    """After `train` a run with curves, still running; after `evaluate` finished and registered; then the attention."""
    make_training("plain")
    _publish()
    run = _run("plain")
    assert run.info.status == "RUNNING"
    assert run.data.metrics["training/dev_loss"] == 2.5
    assert not _store().client.search_model_versions()
    make_scores("plain")
    _publish()
    assert _run("plain").info.run_id == run.info.run_id
    assert _run("plain").info.status == "FINISHED"
    assert len(_store().client.search_model_versions()) == 1
    make_attention("plain")
    _publish()
    assert _run("plain").data.metrics["word_attention/entropy.mean"] == 1.5


def test_another_results_files_are_left_out(project: Path) -> None:
    """Scores, statistics and trainings of other parameters or code, still on disk, get into no run."""
    make_result("plain")
    make_training("attention")
    set_param("beam_size: 5", "beam_size: 6")
    assert _publish()[0].added == ("provenance", "dataset", "training")
    make_scores("plain", bleu=21.0)
    assert _publish()[0].added == ("scores", "model")
    set_param("beam_size: 6", "beam_size: 7")
    assert _publish()[0].added == ("provenance", "dataset", "training")
    files.write_text(Path("src/nmt/training.py"), "# changed\n")
    published = _publish(("plain", 1), ("plain", 2))
    assert "belongs to other parameters" in str(published[0])
    assert str(published[1]) == "plain 2: not trained yet; `dvc repro` does it"
    assert len(counts(_store().client, "nmt")["runs"]) == 2


def test_other_bytes_under_a_finished_id_log_nothing(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run stays as it was, and one line says what differs and what to do."""
    make_result("plain")
    _publish()
    before = counts(_store().client, "nmt")
    make_training("plain", salt="!")
    make_scores("plain", bleu=25.0)
    make_attention("plain")
    tracking.publish_model("plain", 1)
    assert counts(_store().client, "nmt") == before
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "other bytes" in warning
    assert "scores, model" in warning
    assert "delete that run" in warning


@pytest.mark.parametrize("content", ["[]", "null", "{"])
def test_a_damaged_result_keeps_no_other_from_its_run(project: Path, content: str) -> None:
    """It is told, with its file; the others and the comparison are published."""
    for variant in ("plain", "attention"):
        make_result(variant)
    make_comparison()
    files.write_text(paths.training_report("plain", 1) / "summary.json", content)
    damaged, *others = _publish(("plain", 1), ("attention", 1))
    assert damaged.name == "plain 1"
    assert "reports/training/plain/1/summary.json is not" in (damaged.warning or "")
    assert [one.warning for one in others] == [None, None]
    assert others[0].added == MODEL_PARTS


def test_an_interrupted_call_is_made_good(project: Path) -> None:
    """Content that was logged before the tag that remembers it is not doubled."""
    make_result("plain")
    _publish()
    client, run = _store().client, _run("plain")
    before = counts(client, "nmt")
    for part in ("training", "scores", "model"):
        client.delete_tag(run.info.run_id, f"logged.{part}")
    assert _publish()[0].added == ("training", "scores", "model")
    assert counts(client, "nmt") == before


def test_four_processes_share_a_fresh_store(project: Path) -> None:
    """Started together where no store is, they make one run per result, one version each, and no error."""
    Path("mlflow.db").unlink()
    make_result("plain")
    make_result("attention")
    code = "import sys; from nmt import tracking; [tracking.publish_model(v, 1) for v in sys.argv[1:]]"
    processes = [_spawn(f"import sys; sys.argv = ['', {order}]; {code}") for order in ("'plain', 'attention'",) * 4]
    assert [process.communicate(timeout=300)[0] for process in processes] == [""] * 4
    state = counts(_store().client, "nmt")
    assert len(state["runs"]) == state["versions"] == 2
    for run in state["runs"].values():
        assert len(set(run["points"])) == len(run["points"])
        assert run["status"] == "FINISHED"


@pytest.mark.parametrize("locked", [True, False])
def test_the_corpus_is_a_dataset(project: Path, locked: bool) -> None:
    """Its digest is DVC's md5 where dvc.lock has one, else a hash of the prepared files."""
    make_training("plain")
    md5 = "0123456789abcdef0123456789abcdef.dir"
    if locked:
        text = f"stages:\n  prepare:\n    outs:\n    - path: data/prepared\n      md5: {md5}\n"
        files.write_text(paths.LOCK, text)
    _publish()
    (dataset,) = _run("plain").inputs.dataset_inputs
    assert dataset.dataset.name == "tatoeba-zh-en"
    assert dataset.dataset.digest == (md5 if locked else identity.content_hash(paths.PREPARED)[:36])


def test_a_run_tells_the_commit_and_local_changes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit, whether inputs were changed, the changes as a patch, DVC's experiment; results are no change."""
    files.write_text(Path(".gitignore"), "/.nmt/\n/mlflow.db\n/mlartifacts/\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Start")
    make_training("plain")
    monkeypatch.setenv("DVC_EXP_NAME", "brave-owl")
    _publish()
    clean = _run("plain")
    commit = git("rev-parse", "HEAD")
    assert {"git.commit": commit, "git.dirty": "false", "DVC_EXP_NAME": "brave-owl"}.items() <= clean.data.tags.items()
    set_param("max_epochs: 12", "max_epochs: 3")
    make_training("plain")
    _publish()
    dirty = _run("plain")
    assert dirty.data.tags["git.dirty"] == "true"
    where = _store().client.download_artifacts(dirty.info.run_id, "changes.patch")
    assert "+  max_epochs: 3" in Path(where).read_text()
    assert "changes.patch" not in artifacts(_store().client, clean.info.run_id)
    git("stash", "--quiet")
    git("apply", where)
    assert load_params().train.max_epochs == 3


@pytest.mark.parametrize("look", [read_checkout, lambda: repository.git("status", "--porcelain")])
def test_looking_at_the_tree_takes_no_lock(project: Path, look: Callable[[], object]) -> None:
    """A refreshed index would be written, and the user's own `git add` refused meanwhile."""
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All")
    before = Path(".git/index").read_bytes()
    os.utime(paths.PARAMS, (1, 1))
    look()
    assert Path(".git/index").read_bytes() == before
    git("status", "--porcelain")
    assert Path(".git/index").read_bytes() != before


@pytest.mark.parametrize("dirty", [True, False])
def test_commit_and_changes_are_of_one_moment(project: Path, dirty: bool) -> None:
    """A run is there from the training's begin; what is committed meanwhile does not part its commit from its patch."""
    files.write_text(Path(".gitignore"), "/.nmt/\n/mlflow.db\n/mlartifacts/\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Start")
    if dirty:
        set_param("max_epochs: 12", "max_epochs: 3")
    make_training("plain")
    store = _store()
    with place.lock():
        find_or_create(store, Result.present("plain", 1))
    assert _run("plain").data.tags["git.dirty"] == str(dirty).lower()
    files.write_text(Path("NOTES"), "one")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Meanwhile")
    if not dirty:
        files.write_text(Path("NOTES"), "two")
    _publish()
    run = _run("plain")
    assert run.data.tags["git.commit"] == git("rev-parse", "HEAD")
    assert run.data.tags["git.dirty"] == str(not dirty).lower()
    assert ("changes.patch" in artifacts(_store().client, run.info.run_id)) == (not dirty)


def test_outside_git_the_commit_is_absent(project: Path) -> None:
    """Nothing is invented."""
    make_training("plain")
    _publish()
    assert not [tag for tag in _run("plain").data.tags if "git" in tag]


def test_comparisons_are_runs_of_their_own(project: Path) -> None:
    """Each state of the report is one run with its files, however often it is published."""
    for text in ("# One\n", "# Two\n", "# Two\n"):
        make_comparison(text)
        _publish()
    state = counts(_store().client, "nmt")["runs"]
    assert len(state) == 2
    for run in state.values():
        assert run["artifacts"] == ["comparison/comparison.md", "comparison/curves.png"]
        assert (run["status"], run["tags"]["kind"]) == ("FINISHED", "comparison")


def test_a_comparisons_run_ends_at_last(project: Path) -> None:
    """Also if its end did not reach the store when its files did."""
    make_comparison("# One\n")
    _publish()
    client = _store().client
    experiment = client.get_experiment_by_name("nmt")
    assert experiment is not None
    (run_id,) = (run.info.run_id for run in client.search_runs([experiment.experiment_id]))
    client.update_run(run_id, status="RUNNING")
    _publish()
    assert client.get_run(run_id).info.status == "FINISHED"


def test_the_page_belongs_to_its_comparison(project: Path) -> None:
    """It is an artifact of the run of the comparison that it was made from; a newer page takes an older one's place."""
    make_comparison()
    tracking.publish_comparison()
    make_page("old")
    tracking.publish_comparison()
    make_page("new")
    assert [str(published).partition(": ")[2] for published in _publish()][1:] == ["added report"]
    make_comparison("# Another\n")
    tracking.publish_comparison()
    state = counts(_store().client, "nmt")["runs"]
    of_page, without = sorted((run["artifacts"] for run in state.values()), key=len, reverse=True)
    assert of_page == ["comparison/comparison.md", "comparison/curves.png", "report.html"]
    assert without == of_page[:2]
    [run] = [run for run in _store().client.search_runs([_store().experiment_id]) if "logged.report" in run.data.tags]
    folder = _store().client.download_artifacts(run.info.run_id, "report.html")
    assert "new" in files.read_text(Path(folder))


def _train_live(updates: range) -> None:
    """What a training sends: every tenth update, and the dev loss at the end of each epoch."""
    with tracking.live_training("plain", 1, identity.training_id("plain", 1)) as curves:
        for step in updates:
            curves.log(step, {"train_loss": 1.0 / step, "tokens_per_second": 1000.0})
            if step % 100 == 0:
                curves.log(step, {"dev_loss": 5.5 - step // 100})


def test_live_curves_arrive_and_are_not_doubled(project: Path) -> None:
    """Live, resumed from an earlier update, then published: each step of each curve stands in the run once."""
    _train_live(range(10, 210, 10))
    with (
        contextlib.suppress(InterruptedError),
        tracking.live_training("plain", 1, identity.training_id("plain", 1)) as curves,
    ):
        for step in range(150, 260, 10):
            curves.log(step, {"train_loss": 2.0})
        raise InterruptedError
    run = _run("plain")
    live = [(step, 1.0 / step if step <= 200 else 2.0) for step in range(10, 260, 10)]
    assert _history(run, "live/train_loss") == live
    assert _history(run, "curve/dev_loss") == [(100, 4.5), (200, 3.5)]
    assert run.data.metrics["live/tokens_per_second"] == 1000.0
    assert "logged.provenance" not in run.data.tags
    make_training("plain")
    assert _publish()[0].added == ("provenance", "dataset", "training", "live")
    assert _history(run, "live/train_loss") == live
    assert _history(run, "curve/dev_loss") == [(100, 4.5), (200, 3.5), (300, 2.5)]


def test_a_training_ends_with_its_files_published(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the block wrote is in the run when it ends, and one line tells so."""
    caplog.set_level(logging.INFO)
    with tracking.live_training("plain", 1, identity.training_id("plain", 1)) as curves:
        curves.log(10, {"train_loss": 1.0})
        make_training("plain")
    assert _run("plain").data.metrics["training/dev_loss"] == 2.5
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("nmt")]
    assert line.endswith("added provenance, dataset, training, live")


def test_repeating_a_finished_training_sends_nothing(project: Path) -> None:
    """`dvc repro --force` of a finished result leaves its run alone."""
    _train_live(range(10, 40, 10))
    make_result("plain")
    _publish()
    before = counts(_store().client, "nmt")
    _train_live(range(10, 40, 10))
    assert counts(_store().client, "nmt") == before


def test_a_lost_store_gets_the_live_points_again(project: Path) -> None:
    """They stay on disk, so a new store has the points of the old one."""
    _train_live(range(10, 40, 10))
    make_result("plain")
    _publish()
    (before,) = counts(_store().client, "nmt")["runs"].values()
    Path("mlflow.db").unlink()
    _publish()
    (after,) = counts(_store().client, "nmt")["runs"].values()
    assert (before["points"], before["artifacts"]) == (after["points"], after["artifacts"])
    assert "live/train_loss" in {name for name, _, _ in after["points"]}


def test_a_point_that_was_taken_without_an_answer_is_not_doubled(project: Path) -> None:
    """A sender that never heard of its success sends the same points again; the store keeps one of each."""
    make_training("plain")
    _publish()
    points = [values.Point("live/train_loss", step, 1.0 / step, 1000 + step) for step in range(1, 1501)]
    store, run = _store(), _run("plain")
    first, second = Curves(store, run), Curves(store, run)
    first.add(points[:1200])
    second.add([])
    second.add(points)  # `run` is as it was before the first sending
    assert _history(run, "live/train_loss") == [(point.step, point.value) for point in points]


def test_half_a_line_of_the_spool_is_cut_off(tmp_path: Path) -> None:
    """A process that was killed while it wrote costs that point alone, and what is no point is passed over."""
    path = tmp_path / "live" / "0.jsonl"
    writer = spool.Writer(path)
    writer.write(1000, 10, {"live/a": 0.1, "live/b": 2.0})
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\0\n" + whole[:20])
    assert spool.read(path)[1] == len(whole) + 3
    writer = spool.Writer(path)
    writer.write(2000, 10, {"live/a": 7.0, "live/c": 3.0})
    writer.write(3000, 20, {"live/a": 0.3})
    writer.close()
    assert [tuple(point) for point in spool.read(path)[0]] == [
        ("live/a", 10, 0.1, 1000),
        ("live/b", 10, 2.0, 1000),
        ("live/c", 10, 3.0, 2000),
        ("live/a", 20, 0.3, 3000),
    ]


def test_a_damaged_line_of_the_spool_is_no_point(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A number that a bad disk made another one reaches no store; the others do, and one line tells the loss."""
    make_training("plain")
    path = spool.place_of(identity.training_id("plain", 1))
    writer = spool.Writer(path)
    for step in range(10, 60, 10):
        writer.write(1000, step, {"live/train_loss": 1.0 / step})
    writer.close()
    content = path.read_bytes()
    assert content.count(b'"step": 30,') == 1
    path.write_bytes(content.replace(b'"step": 30,', b'"step": 31,'))
    _publish()
    assert _history(_run("plain"), "live/train_loss") == [(step, 1.0 / step) for step in (10, 20, 40, 50)]
    assert f"{path}: damaged lines are passed over: 1 of 5" in " ".join(_warnings(caplog))


def test_a_full_disk_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Points are lost then, and one line says so."""
    writer = spool.Writer(tmp_path / "0.jsonl")
    assert writer._stream is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._stream.fileno())
    os.close(full)
    for step in range(3):
        writer.write(1000, step, {"live/a": 0.1})
    writer.close()
    assert len(_warnings(caplog)) == 1


@contextlib.contextmanager
def _hung_server() -> Iterator[str]:
    """Connections come about and no request is ever answered, as with a server that was stopped."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_hung_server_stops_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Logging stays instant, each end waits less than five seconds, and a later call makes it good elsewhere."""
    with _hung_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        slowest = 0.0
        with tracking.live_training("plain", 1, identity.training_id("plain", 1)) as curves:
            for step in range(1, 2001):
                start = time.perf_counter()
                curves.log(step, {"train_loss": 1.0})
                slowest = max(slowest, time.perf_counter() - start)
            make_result("plain")
            end = time.monotonic()
        assert time.monotonic() - end < 5.0
        assert slowest < 0.5
        end = time.monotonic()
        tracking.publish_model("plain", 1)
        assert time.monotonic() - end < 5.0
        assert [f"no answer from {uri}" in warning for warning in _warnings(caplog)] == [True, True]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _publish()[0].added == (*MODEL_PARTS[:3], "live", *MODEL_PARTS[3:])
    assert [step for step, _ in _history(_run("plain"), "live/train_loss")] == list(range(1, 2001))


def test_a_dead_server_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens: both the live curves and the stage's end say so, without the password, and go on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//me:secret@"))
    make_training("plain")
    start = time.monotonic()
    _train_live(range(10, 30, 10))
    tracking.publish_model("plain", 1)
    tracking.publish_comparison()
    assert time.monotonic() - start < 5.0
    assert [f"no answer from {uri}" in warning for warning in _warnings(caplog)] == [True] * 3
    assert all("`nmt publish`" in warning for warning in _warnings(caplog))


def test_a_failing_store_fails_no_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is none is one warning."""
    make_training("plain")
    files.write_text(Path("broken.db"), "no database\n" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('broken.db').absolute()}")
    start = time.monotonic()
    tracking.publish_model("plain", 1)
    assert time.monotonic() - start < 5.0
    (warning,) = _warnings(caplog)
    assert "file is not a database" in warning
    assert "\n" not in warning
    assert warning.endswith("`nmt publish` makes it good")


SILENT = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
{before}
from nmt import identity, tracking
with tracking.live_training("plain", 1, identity.training_id("plain", 1)) as curves:
    curves.log(1, {{"train_loss": 1.0}})
tracking.publish_model("plain", 1)
tracking.publish_comparison()
assert not {{"mlflow", "torch"}} & {{name for name, module in sys.modules.items() if module}}
"""


@pytest.mark.parametrize(
    ("before", "switch", "line"),
    [
        ("", "off", "tracking: switched off by NMT_TRACKING"),
        ("sys.modules['mlflow'] = None", "", "tracking: mlflow is not installed"),
    ],
)
def test_without_tracking_nothing_happens(project: Path, before: str, switch: str, line: str) -> None:
    """Switched off, or without mlflow: a line per call, no import, no file."""
    make_result("plain")
    Path("mlflow.db").unlink()
    output, _ = _spawn(SILENT.format(before=before), NMT_TRACKING=switch).communicate(timeout=60)
    assert output.splitlines() == [line] * 3
    assert not Path("mlflow.db").exists()


def test_runs_land_in_the_workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC_ROOT, or the place of DVC's experiment copies, leads to the workspace; an explicit address wins."""
    assert place.tracking_uri() == f"sqlite:///{project}/mlflow.db"
    copy = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1" / "below"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert place.workspace() == project
    for given, meant in (("sqlite:///runs/a.db", f"sqlite:///{project}/runs/a.db"), ("sqlite:////x.db",) * 2):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert place.tracking_uri() == meant
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert place.tracking_uri() == "sqlite:////elsewhere/mlflow.db"
    assert place.artifact_root(place.tracking_uri()) == "file:///elsewhere/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org:5000")
    assert place.tracking_uri() == "http://example.org:5000"
    assert place.artifact_root(place.tracking_uri()) is None


def test_a_path_with_a_space_is_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Database and artifacts lie in the project, whatever it is called."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a b#c"
    make_project(folder)
    monkeypatch.chdir(folder)
    make_result("plain")
    _publish()
    assert Path("mlflow.db").exists()
    assert (tracking.download_bundle("models:/nmt-zh-en@plain") / "config.json").exists()
    assert Path("mlartifacts").is_dir()
    assert not Path("mlruns").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_numbers_become_points() -> None:
    """Dotted names, curves out of lists, and nothing that is no finite number."""
    content = {
        "bleu": {"score": 20.5, "signature": "v:2"},
        "aer": None,
        "shared": True,
        "loss": float("nan"),
        "joined": [{"joined": 1, "bleu": 20.0, "chrf": {"low": 3}}, {"joined": 4, "bleu": 10.0}],
        "rows": [{"method": "top: 1", "aer": 0.5}, {"method": "mean", "aer": 0.25}],
        "bins": [{"low": 0.5, "bleu": 1}, {"low": 1.5, "bleu": 2}],
        "plain list": [7, 8],
        "odd: name%": 1,
    }
    assert [tuple(point)[:3] for point in values.points(content, "g")] == [
        ("g/bleu.score", 0, 20.5),
        ("g/joined.bleu", 1, 20.0),
        ("g/joined.chrf.low", 1, 3.0),
        ("g/joined.bleu", 4, 10.0),
        ("g/rows.top_ 1.aer", 0, 0.5),
        ("g/rows.mean.aer", 0, 0.25),
        ("g/bins.low", 0, 0.5),
        ("g/bins.bleu", 0, 1.0),
        ("g/bins.low", 1, 1.5),
        ("g/bins.bleu", 1, 2.0),
        ("g/plain list", 0, 7.0),
        ("g/plain list", 1, 8.0),
        ("g/odd_ name_", 0, 1.0),
    ]
    assert values.texts(content, "g") == {"g/bleu.signature": "v:2"}


@pytest.mark.parametrize(
    ("variant", "expected"), [("plain", "plain"), ("v2", "variant-v2"), ("Latest", "variant-Latest")]
)
def test_aliases_avoid_what_mlflow_keeps_for_itself(variant: str, expected: str) -> None:
    """`v2` and `latest` mean something else in the registry."""
    assert alias(variant) == expected

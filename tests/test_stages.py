"""The whole pipeline by real `dvc repro`: git, DVC, MLflow and every stage, on a toy corpus."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.project import OTHERS, Project

pytestmark = pytest.mark.xdist_group("dvc")

MODELS = ("plain", "attention")
PER_MODEL = ("train", "translate", "evaluate", "analyze_attention")
ALL_STAGES = {"fetch", "prepare", "tokenize", "compare", "report"} | {
    f"{stage}@{model}-1" for stage in PER_MODEL for model in MODELS
}


def read_json(project: Project, name: str) -> Any:
    """A result of the project."""
    return json.loads((project.folder / name).read_text("utf-8"))


def lock(project: Project) -> dict[str, Any]:
    """The stages of dvc.lock."""
    stages: dict[str, Any] = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]
    return stages


def test_repro_runs_every_stage_once(small_project: Project) -> None:
    """In the order of the DAG."""
    output = (small_project.folder.parent / "repro.log").read_text()
    assert small_project.stages_run(output) == ALL_STAGES
    assert set(lock(small_project)) == ALL_STAGES


def test_every_declared_output_exists(small_project: Project) -> None:
    """And holds something; of the variant without attention there are no links to draw."""
    outputs = [out["path"] for stage in lock(small_project).values() for out in stage["outs"]]
    assert len(outputs) > len(ALL_STAGES)
    for output in outputs:
        path = small_project.folder / output
        assert path.exists(), output
        if path.is_dir() and "plain" not in output:
            assert any(path.rglob("*")), output


def test_the_split_has_the_size_asked_for(small_project: Project) -> None:
    """Text and records stand line by line; the toy corpus loses no pair but to the filters."""
    prepared = small_project.folder / "data/prepared"
    counts = {path.name: path.read_text("utf-8").count("\n") for path in prepared.iterdir()}
    assert counts["test.source.txt"] == counts["test.target.txt"] == counts["test.jsonl"] == 30
    assert counts["dev.source.txt"] == counts["dev.target.txt"] == counts["dev.jsonl"] == 20
    assert 250 <= counts["train.source.txt"] == counts["train.target.txt"] <= 310


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_translated_and_been_scored(small_project: Project, model: str) -> None:
    """Every test sentence has a line; every score is a number within its bounds and its interval."""
    folder = small_project.folder / f"reports/translations/{model}/1"
    assert (folder / "hypotheses.txt").read_text("utf-8").count("\n") == 30
    assert (folder / "hypotheses.jsonl").read_text("utf-8").count("\n") == 30
    assert (folder / "joined.jsonl").read_text("utf-8").count("\n") == 15
    assert (folder / "attention.npz").exists() == (model == "attention")

    scores = read_json(small_project, f"reports/scores/{model}/1.json")
    assert scores["variant"] == model
    assert scores["sentences"] == 30
    for metric in ("bleu", "chrf"):
        assert 0 <= scores[metric]["low"] <= scores[metric]["score"] <= scores[metric]["high"] <= 100
        assert "version:" in scores[metric]["signature"]
    assert scores["perplexity_per_token"] > 1
    assert sum(part["sentences"] for part in scores["by_length"]) == 30
    assert [part["joined"] for part in scores["joined"]] == [1, 2]


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_learned(small_project: Project, model: str) -> None:
    """The history is that of three epochs, and what it learned reaches the hypotheses and their scores."""
    with (small_project.folder / f"reports/training/{model}/1/history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    losses = [float(row["dev_loss"]) for row in history]
    assert losses[2] < losses[1] < losses[0] < 4  # guessing has a loss of ln 310 = 5.7
    summary = read_json(small_project, f"reports/training/{model}/1/summary.json")
    assert summary["dev_loss"] == pytest.approx(losses[2], abs=1e-4)
    scores = read_json(small_project, f"reports/scores/{model}/1.json")
    assert scores["bleu"]["score"] > 10
    assert scores["perplexity_per_token"] == pytest.approx(summary["dev_perplexity"], rel=0.3)


def test_the_models_differ_in_attention_alone(small_project: Project) -> None:
    """Same data, same updates; the parameter counts stand side by side."""
    plain, attention = (read_json(small_project, f"reports/training/{model}/1/summary.json") for model in MODELS)
    for key in ("updates", "epochs", "source_tokens", "target_tokens", "device", "precision", "threads"):
        assert plain[key] == attention[key], key
    assert plain["parameters"] != attention["parameters"]
    assert plain["training_id"] != attention["training_id"]


def test_mlflow_has_a_run_and_a_model_for_each_variant(small_project: Project) -> None:
    """Plain `dvc repro` leaves finished runs with curves, and one registered version each, in the default store."""
    with sqlite3.connect(small_project.folder / "mlflow.db") as database:
        runs = database.execute("select run_uuid, name, status from runs").fetchall()
        curves = database.execute("select run_uuid from metrics where key like '%dev_loss%' group by 1").fetchall()
        versions = database.execute("select name, version from model_versions").fetchall()
    database.close()
    of_models = [run for run in runs if run[1].startswith(MODELS)]
    assert sorted(run[1].partition("-")[0] for run in of_models) == sorted(MODELS)
    assert {run[2] for run in runs} == {"FINISHED"}
    assert {run[0] for run in of_models} <= {row[0] for row in curves}
    assert len(versions) == len(MODELS)


@pytest.mark.parametrize("spool", [True, False])
def test_a_lost_store_is_filled_from_the_run_cache(small_project: Project, tmp_path: Path, spool: bool) -> None:
    """Outputs deleted, restored by DVC without running code, the store gone: `nmt publish` brings each run back once.

    Curves, metrics, models and the comparison; of what is in no output, the live points, as long as the spool is there.
    """
    project = small_project.copy(tmp_path / "project")
    before = tracked(project)
    for lost in ("mlflow.db", "mlartifacts", "dvc.lock", "models", "reports", *([] if spool else [".nmt"])):
        path = project.folder / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    project.run("git", "checkout", "--quiet", "--", *OTHERS)  # no outputs, but what git keeps of other experiments
    in_git = {
        "compare",
        *(f"analyze_attention@{model}-1" for model in MODELS),
    }  # figures: DVC's run cache has none of these
    assert project.stages_run(project.dvc("repro", NMT_TRACKING="off")) <= in_git | {"report"}
    publish = (sys.executable, "-m", "nmt", "publish")
    first, second = (project.run(*publish, PYTHONPATH="src") for _ in range(2))
    assert first.count("added ") == len(MODELS) + 1
    assert "added " not in second
    kept = [row for row in before["points"] if spool or not row[1].startswith("live/")]
    assert len(kept) < len(before["points"]) or spool
    assert tracked(project) == before | {"points": kept}


def tracked(project: Project) -> dict[str, list[Any]]:
    """What the default store holds, less ids, times and paths: points, params, runs, model versions, files."""
    of_run = "from {} join runs using (run_uuid) order by 1, 2, 3"
    queries = {
        "runs": "select name, status from runs order by 1",
        "points": f"select name, key, step, value {of_run.format('metrics')}, 4",
        "params": f"select name, key, value {of_run.format('params')}",
        "versions": "select name, description from model_versions order by 2",
    }
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        found = {name: database.execute(query).fetchall() for name, query in queries.items()}
    database.close()
    files = [path.name for path in (project.folder / "mlartifacts").rglob("*") if path.is_file()]
    return found | {"files": sorted(files)}


def test_git_holds_results_and_not_data(small_project: Project) -> None:
    """What a commit carries stays small: no corpus, no weights, no cache."""
    tracked = small_project.run("git", "ls-files").splitlines()
    assert "reports/scores/plain/1.json" in tracked
    assert "reports/comparison/comparison.md" in tracked
    assert "reports/report.html" not in tracked
    assert not [name for name in tracked if name.endswith((".safetensors", ".npy", ".npz", ".txt.ids", ".db", ".tsv"))]
    assert small_project.run("git", "status", "--porcelain") == ""


def test_dvc_shows_graph_metrics_and_plots(small_project: Project, tmp_path: Path) -> None:
    """The commands of the README answer."""
    assert {line.split()[0] for line in small_project.dvc("stage", "list").splitlines()} == ALL_STAGES
    graph = small_project.dvc("dag", "--dot").replace('"', "")
    for edge in (
        "prepare -> tokenize",
        "train@plain-1 -> translate@plain-1",
        "evaluate@attention-1 -> compare",
        "compare -> report",
    ):
        assert f"{edge};" in graph
    metrics = json.loads(small_project.dvc("metrics", "show", "--json"))[""]["data"]
    assert "reports/scores/attention/1.json" in metrics
    project = small_project.copy(tmp_path / "project")
    project.dvc("plots", "show", "--out", "plots")
    page = (project.folder / "plots/index.html").read_text("utf-8")
    for plot in YAML(typ="safe").load(project.folder / "dvc.yaml")["plots"]:
        (title,) = plot
        assert title in page or title == "Alignment error rate"  # nobody linked the words of this corpus


def test_a_second_repro_runs_nothing(small_project: Project, tmp_path: Path) -> None:
    """And `dvc status` agrees; what a run of the tests leaves beside the sources counts for nothing."""
    project = small_project.copy(tmp_path / "project")
    cache = project.folder / "src/nmt/model/__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "stale.pyc").touch()
    assert "up to date" in project.dvc("status")
    assert project.stages_run(project.dvc("repro")) == set()
    assert project.stages_run(project.make("repro")) == set()


def test_force_gives_the_same_bytes(small_project: Project, tmp_path: Path) -> None:
    """Same machine, code and params: every output has the md5 it had, in another folder and without a tracker."""
    project = small_project.copy(tmp_path / "elsewhere")
    before = lock(project)
    output = project.dvc("repro", "--force", NMT_TRACKING="off")
    assert project.stages_run(output) == ALL_STAGES
    changed = {
        out["path"]
        for name, stage in lock(project).items()
        for out, old in zip(stage["outs"], before[name]["outs"], strict=True)
        if out != old
    }
    assert changed == set()
    assert project.run("git", "status", "--porcelain") == ""


def test_a_training_that_is_asked_to_stop_saves_and_goes_on(small_project: Project, tmp_path: Path) -> None:
    """SIGTERM ends it after the present update with its state on disk, although no checkpoint was due."""
    project = small_project.copy(tmp_path / "project")
    project.set_params({"train.max_epochs": 40})
    stage = [sys.executable, "-m", "nmt.stages.train", "plain", "1"]
    environment = {"NMT_TRACKING": "off", "NMT_CHECKPOINT_SECONDS": "1000", "PYTHONPATH": "src"}
    process = project.start(*stage, **environment)
    wait_for(lambda: any(project.folder.glob(".nmt/unfinished/train-*/")), process)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert any(project.folder.glob(".nmt/unfinished/train-*/state.safetensors"))
    assert "going on after update" in project.run(*stage, **environment)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Return as soon as the condition holds; the process must not have ended by then."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        time.sleep(0.02)


def test_a_removed_output_comes_back_from_the_cache(small_project: Project, tmp_path: Path) -> None:
    """Weights are not trained again."""
    project = small_project.copy(tmp_path / "project")
    bundle = project.folder / "models/attention/1"
    before = (bundle / "model.safetensors").read_bytes()
    shutil.rmtree(bundle)
    assert project.stages_run(project.dvc("repro")) == set()
    assert (bundle / "model.safetensors").read_bytes() == before


def test_a_new_variant_runs_what_it_needs(small_project: Project, tmp_path: Path) -> None:
    """`dvc exp run` trains the new one and compares all; DVC and MLflow both show it under the experiment's name."""
    project = small_project.copy(tmp_path / "project")
    output = project.dvc("exp", "run", "--name", "with-dot", "--set-param", "+variants.dot.attention=dot")
    assert project.stages_run(output) == {"compare", "report"} | {f"{stage}@dot-1" for stage in PER_MODEL}
    assert "reports/scores/dot/1.json" in project.dvc("metrics", "diff")
    assert "with-dot" in project.dvc("exp", "show", "--csv")
    comparison = (project.folder / "reports/comparison/comparison.md").read_text("utf-8")
    assert all(model in comparison for model in (*MODELS, "dot"))
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        tags = database.execute("select value from tags where key = 'DVC_EXP_NAME'").fetchall()
    database.close()
    assert ("with-dot",) in tags


@pytest.mark.integration
def test_seeds_translate_together(small_project: Project, tmp_path: Path) -> None:
    """`ensembles` adds a row for the models of all seeds; a second run runs nothing, and without it nothing is run."""
    project = small_project.copy(tmp_path / "project")
    project.set_params({"seeds": [1, 2], "ensembles": ["attention"]})
    together = {"translate_ensemble@attention", "evaluate_ensemble@attention"}
    again = {f"{stage}@{model}-2" for stage in PER_MODEL for model in MODELS} | {"compare", "report"}
    assert project.stages_run(project.dvc("repro")) == again | together
    assert project.stages_run(project.dvc("repro")) == set()
    comparison = (project.folder / "reports/comparison/comparison.md").read_text("utf-8")
    assert "| **attention, ensemble of 2** |" in comparison
    assert "reports/scores/attention/ensemble.json" in project.dvc("metrics", "show")
    project.set_params({"ensembles": ["plain", "attention"]})
    assert project.stages_run(project.dvc("repro")) == {
        "translate_ensemble@plain", "evaluate_ensemble@plain", "compare", "report"
    }  # fmt: skip


def test_an_experiment_in_a_copy_keeps_its_run(small_project: Project, tmp_path: Path) -> None:
    """`--temp` runs in a folder that DVC throws away; the run stays in the project's store."""
    project = small_project.copy(tmp_path / "project")
    output = project.dvc("exp", "run", "--temp", "--name", "aside", "--set-param", "translate.beam_size=3")
    again = {f"{stage}@{model}-1" for stage in PER_MODEL[1:] for model in MODELS}
    assert project.stages_run(output) == again | {"compare", "report"}
    assert project.run("git", "status", "--porcelain") == ""
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        tags = database.execute("select run_uuid from tags where (key, value) = ('DVC_EXP_NAME', 'aside')").fetchall()
    database.close()
    assert len(tags) >= len(MODELS)


def test_bad_params_stop_the_first_stage_in_one_line(unrun_project: Project, tmp_path: Path) -> None:
    """The user sees the fault and no traceback."""
    project = unrun_project.copy(tmp_path / "project")
    path = project.folder / "params.yaml"
    path.write_text(path.read_text().replace("max_epochs:", "max_epoch:"))
    output = project.run("dvc", "repro", check=False)
    assert "error: params.yaml: missing key 'train.max_epochs'\n" in output
    assert "\nparams.yaml: unknown key 'train.max_epoch'; did you mean 'max_epochs'?\n" in output
    assert "Traceback" not in output
    assert not (project.folder / "data/raw").exists()


def test_another_python_is_named(unrun_project: Project, tmp_path: Path) -> None:
    """A stage that the wrong `python` starts says which, and what to do."""
    project = unrun_project.copy(tmp_path / "project")
    bare = tmp_path / "bare"
    project.run("python", "-m", "venv", "--without-pip", str(bare))
    output = project.run(str(bare / "bin/python"), "-m", "nmt.stages.fetch", check=False, PYTHONPATH="src")
    assert output.startswith(f"error: {bare}/bin/python started this stage but lacks numpy")
    assert "make repro" in output
    assert len(output.splitlines()) == 1

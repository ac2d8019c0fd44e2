"""Experiments as one person or a team runs them: real git, DVC with its queue, and MLflow, on the small project.

Minutes each: `make test-integration`.
"""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nmt import experiments
from nmt.runtime import alone_on_gpu
from tests.project import ROOT, Project, edit_yaml
from tests.test_stages import lock, read_json

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("operations")]


@pytest.fixture(scope="module")
def published(small_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small project with results committed and a store of its own; `copy_of` it to change it."""
    return copy_of(small_project, tmp_path_factory.mktemp("published") / "project")


def copy_of(project: Project, folder: Path) -> Project:
    """A copy with a new store that holds the same results: a store knows the folder in which it was made."""
    copy = project.copy(folder)
    shutil.rmtree(folder / "mlartifacts")
    for database in folder.glob("mlflow.db*"):
        database.unlink()
    copy.nmt("publish")
    return copy


def result_id(project: Project, variant: str) -> str:
    """The id that the scores in the workspace carry."""
    return str(read_json(project, f"reports/scores/{variant}/1.json")["result_id"])


def tags(project: Project, key: str) -> dict[str, str]:
    """A tag's value by the name of the run."""
    query = "select name, value from runs join tags using (run_uuid) where key = ?"
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        found = dict(database.execute(query, [key]).fetchall())
    database.close()
    return found


def aliases(project: Project) -> dict[str, int]:
    """Versions by alias."""
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        found = dict(database.execute("select alias, version from registered_model_aliases").fetchall())
    database.close()
    return found


def version_tags(project: Project, version: int) -> dict[str, str]:
    """The tags of a registered version."""
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        found = dict(database.execute("select key, value from model_version_tags where version = ?", [version]))
    database.close()
    return found


def artifact(project: Project, run: str, name: str) -> Path:
    """Where a file of a run lies."""
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        (uri,) = database.execute("select artifact_uri from runs where name = ?", [run]).fetchone()
    database.close()
    return Path(uri.removeprefix("file://")) / name


def experiment_scores(project: Project, name: str, variant: str) -> Any:
    """The scores that an experiment's commit holds."""
    reference = project.run("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").strip()
    return json.loads(project.run("git", "show", f"{reference}:reports/scores/{variant}/1.json"))


def test_dvc_and_mlflow_name_each_other(published: Project) -> None:
    """`dvc exp show` has the id by which `nmt link` finds the run; the run has the commit, dvc.lock and every md5."""
    shown = published.dvc("exp", "show", "--csv")
    wanted = result_id(published, "attention")
    assert wanted in shown
    address, facts = published.nmt("link", wanted[:6]).splitlines()
    run_id = re.fullmatch(r"http://127\.0\.0\.1:5000/#/experiments/\d+/runs/([0-9a-f]{32})", address)
    assert run_id
    commit = tags(published, "git.commit")[f"attention-{wanted[:8]}"]
    assert commit == published.run("git", "rev-parse", "HEAD").strip()
    assert facts == f"attention-{wanted[:8]} (finished), result {wanted}, commit {commit[:10]}"
    for name in (run_id[1], f"attention-{wanted[:8]}"):
        assert published.nmt("link", name).splitlines()[0] == address
    recorded = artifact(published, f"attention-{wanted[:8]}", "dvc.lock").read_bytes()
    assert recorded == (published.folder / "dvc.lock").read_bytes()
    outs = {out["path"]: out["md5"] for stage in lock(published).values() for out in stage["outs"]}
    for path in ("data/raw", "data/prepared", "models/attention/1"):
        assert tags(published, f"dvc.md5/{path}")[f"attention-{wanted[:8]}"] == outs[path]
    assert "has no run ffffffff" in published.nmt("link", "ffffffff", status=1)


def test_a_run_of_the_workspace_is_reproduced(published: Project, tmp_path: Path) -> None:
    """Its changes are made again, those in files that git did not know included; a planted change is named."""
    project = copy_of(published, tmp_path / "project")
    module, stage = project.folder / "src/nmt/novelty.py", project.folder / "src/nmt/stages/evaluate.py"
    module.write_text('"""A file that git does not know."""\n\nLENGTH = 7\n')
    code = stage.read_text().replace(
        '"sentences": len(sentences),', '"sentences": len(sentences),\n        "n": LENGTH,'
    )
    imported = "from nmt.stages.runner import run_for_model\n"
    stage.write_text(code.replace(imported, f"{imported}from nmt.novelty import LENGTH\n"))
    project.dvc("exp", "run", "--name", "here", "--set-param", "translate.beam_size=3")
    wanted = result_id(project, "plain")
    assert '"n": 7' in (project.folder / "reports/scores/plain/1.json").read_text()
    assert "with changes, DVC experiment here" in project.nmt("link", wanted[:8])
    project.run("git", "checkout", "--quiet", "--force", "HEAD")
    module.unlink()

    output = project.nmt("reproduce", wanted[:8])
    assert re.search(rf"^identical: \d\d outputs of 7 stages, plain-{wanted[:8]}$", output, re.MULTILINE)
    assert project.run("git", "worktree", "list").count("\n") == 1
    assert project.run("git", "status", "--porcelain") == ""

    edit_yaml(artifact(project, f"plain-{wanted[:8]}", "params.yaml"), {"translate.length_penalty": 0.1})
    output = project.nmt("reproduce", f"plain-{wanted[:8]}", "--folder", str(tmp_path / "kept"), status=1)
    differing = next(line for line in output.splitlines() if line.startswith("differs: "))
    assert differing.startswith("differs: reports/translations/plain/1, ")
    assert "reports/scores/plain/1.json" in differing
    assert "models" not in differing
    assert (tmp_path / "kept/reports/scores/plain/1.json").exists()


@pytest.mark.parametrize("way", ["--temp", "--queue"])
def test_a_run_of_a_copy_is_reproduced(published: Project, tmp_path: Path, way: str) -> None:
    """From the baseline's commit and the experiment's parameters, with all of the training."""
    project = copy_of(published, tmp_path / "project")
    project.dvc("exp", "run", way, "--name", "aside", "--set-param", "train.label_smoothing=0.0")
    if way == "--queue":
        project.dvc("queue", "start")
        wait_for_end(project, "aside")
    wanted = experiment_scores(project, "aside", "attention")["result_id"]
    assert wanted != result_id(project, "attention")
    output = project.nmt("reproduce", wanted)
    assert re.search(rf"^identical: \d\d outputs of 7 stages, attention-{wanted[:8]}$", output, re.MULTILINE)


def wait_for_end(project: Project, name: str) -> None:
    """Return when a queued experiment is one."""
    deadline = time.monotonic() + 300
    while not project.run("git", "for-each-ref", f"refs/exps/**/{name}"):
        assert time.monotonic() < deadline, project.dvc("queue", "status") + project.dvc("queue", "logs", name)
        time.sleep(2)


def test_reproduce_says_what_it_lacks(published: Project, tmp_path: Path) -> None:
    """A run without dvc.lock, a commit that is not here, a run that is no model's: one line each."""
    project = copy_of(published, tmp_path / "project")
    name = f"plain-{result_id(project, 'plain')[:8]}"
    artifact(project, name, "dvc.lock").unlink()
    assert f"error: {name} holds no dvc.lock yet" in project.nmt("reproduce", name, status=1)
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        database.execute("update tags set value = ? where key = 'git.commit'", ["0" * 40])
    database.close()
    other = f"attention-{result_id(project, 'attention')[:8]}"
    assert f"the commit {'0' * 40} of {other} is not in this repo" in project.nmt("reproduce", other, status=1)
    comparison = next(name for name in tags(project, "kind") if name.startswith("comparison-"))
    assert f"{comparison} is not a run of a model" in project.nmt("reproduce", comparison, status=1)


def test_a_sweep_is_checked_and_resumed(published: Project, tmp_path: Path) -> None:
    """One trial fails: the others are done, the fault is told; a second call queues only what is missing."""
    project = copy_of(published, tmp_path / "project")
    grid = ("sweep", "-S", "translate.beam_size=1,2,3", "--jobs", "2")  # a beam of 1 cannot hold two best hypotheses
    output = project.nmt(*grid, status=1)
    assert output.count(": queued\n") == 3
    assert "beam_size=1 failed: `dvc queue logs beam_size=1` tells why" in output
    assert "3 trials, 2 done, 1 faults" in output
    ranked = [line.split() for line in output.splitlines() if re.match(r"\d+  ", line)]
    assert {line[1] for line in ranked} == {"HEAD", "beam_size=3"}  # beam_size=2 is the commit's own result
    assert "n_best is 2, but a beam of 1" in project.dvc("queue", "logs", "beam_size=1")

    output = project.nmt("sweep", "-S", "translate.beam_size=2,3,4")
    assert re.findall(r"(\S+): (queued|done)\n", output) == [
        ("beam_size=2", "done"),
        ("beam_size=3", "done"),
        ("beam_size=4", "queued"),
    ]
    assert "3 trials, 3 done, 0 faults" in output
    for name in ("beam_size=2", "beam_size=3", "beam_size=4"):
        for variant in ("plain", "attention"):
            found = experiment_scores(project, name, variant)["result_id"]
            assert found in tags(project, "result_id").values()
    assert project.run("git", "status", "--porcelain") == ""

    listed = project.nmt("leaderboard", "--save")
    rows = (project.folder / "reports/experiments/leaderboard.csv").read_text("utf-8").splitlines()
    assert len(rows) == len(listed.splitlines()) == 1 + 6
    best = max(float(row.split(",")[3]) for row in rows[1:])
    assert float(rows[1].split(",")[3]) == best
    assert f"{best:.2f} [" in listed.splitlines()[1]
    page = project.folder / "reports/report.html"
    assert "What else was tried?" not in page.read_text("utf-8")  # the list that came along is of another test set
    assert "Running stage 'report'" in project.dvc("repro")
    assert "beam_size=3: attention, seed 1" in page.read_text("utf-8")


STUDY = """
- {name: greedy, variants: [attention], seeds: [1], set: {translate: {beam_size: 2, ablations: []}}}
- {name: wider, variants: [plain, attention], seeds: [1], set: {translate: {beam_size: 4}}}
"""


def test_a_study_is_a_table_in_the_report(published: Project, tmp_path: Path) -> None:
    """Its steps are experiments of their own models; a second call runs nothing; the report page takes the table in."""
    project = copy_of(published, tmp_path / "project")
    folder = project.folder / "reports/experiments/ingredients"
    (folder / "study.yaml").write_text(STUDY)
    project.commit("A study")
    output = project.nmt("study", "ingredients")
    assert output.count(": queued\n") == 2
    for step, variant, beam in (("greedy", "attention", 2), ("wider", "attention", 4), ("wider", "plain", 4)):
        (name,) = re.findall(rf"ingredients-{step}-[0-9a-f]{{8}}(?=: queued)", output)
        assert f"{experiment_scores(project, name, variant)['bleu']['score']:.2f} [" in output
        assert f"translate.beam_size={beam}" in output
    rows = (folder / "table.csv").read_text("utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "greedy", "wider", "wider"]
    assert (folder / "table.png").stat().st_size > 5000
    again = project.nmt("study", "ingredients")
    assert ": queued\n" not in again
    assert (folder / "table.csv").read_text("utf-8").splitlines() == rows
    assert "Running stage 'report'" in project.dvc("repro")
    assert "Step by step" in (project.folder / "reports/report.html").read_text("utf-8")


def test_a_sweep_survives_the_death_of_its_workers(published: Project, tmp_path: Path) -> None:
    """`kill -9` of the sweep, of the workers and of what they run: a second call ends what was begun."""
    project = copy_of(published, tmp_path / "project")
    command = [sys.executable, "-m", "nmt", "sweep", "-S", "train.label_smoothing=0.0,0.2"]
    process = project.start(*command, PYTHONPATH=str(project.folder / "src"))
    deadline = time.monotonic() + 200
    while "Running" not in project.dvc("queue", "status"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(1)
    process.kill()
    process.wait()
    for one in of_project(project):
        one.kill()
    assert "2 trials, 2 done, 0 faults" in project.nmt(*command[3:])


def test_a_job_outlives_the_end_of_its_worker(published: Project, tmp_path: Path) -> None:
    """A worker that was told to end does its job first and does not answer: its sweep waits, however long it takes."""
    project = copy_of(published, tmp_path / "project")
    command = [sys.executable, "-m", "nmt", "sweep", "-S", "translate.length_penalty=0.6"]
    process = project.start(*command, PYTHONPATH=str(project.folder / "src"))
    deadline = time.monotonic() + 200
    while not (stages := [one for one in of_project(project) if "nmt.stages.translate" in one.info["cmdline"]]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    project.dvc("queue", "stop")
    for one in stages:
        one.suspend()
    time.sleep(2 * experiments.POLL_SECONDS * experiments.PATIENCE)
    assert [one.status() for one in stages] == [psutil.STATUS_STOPPED] * len(stages)  # nobody killed them meanwhile
    for one in stages:
        one.resume()
    assert process.wait(300) == 0


def of_project(project: Project) -> list[psutil.Process]:
    """All processes at work below the project's folder."""
    found = []
    for one in psutil.process_iter(["cwd", "cmdline"]):
        if Path(one.info["cwd"] or "/").is_relative_to(project.folder):
            found.append(one)
    return found


HOLD = """
import sys, time
from pathlib import Path
import torch
from nmt.runtime import alone_on_gpu
with alone_on_gpu(torch.device(sys.argv[1]), Path(sys.argv[2])):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_one_training_at_a_time_on_a_gpu(tmp_path: Path) -> None:
    """A second process waits until the first has ended, even if it was killed; on a CPU none waits."""
    device = "cuda" if torch.cuda.is_available() else "meta"  # without a GPU, a device that is no CPU either
    command = [sys.executable, "-c", HOLD, device, str(tmp_path / "locks")]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    pipe = subprocess.PIPE
    first = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "has it\n"
    second = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    assert second.stdout is not None
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting: another training has the GPU\n"
    with alone_on_gpu(torch.device("cpu"), tmp_path / "locks"):
        assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "has it\n"
    for process in (first, second):
        process.kill()
        process.communicate()


def test_the_champion_changes_hands_by_a_test(published: Project, tmp_path: Path) -> None:
    """The first, a loser, a winner, and back by force; each decision is in the version, the log and git."""
    project = copy_of(published, tmp_path / "project")
    versions = {alias: number for alias, number in aliases(project).items() if alias in ("plain", "attention")}
    note = project.folder / "src/nmt/scoring.py"
    note.write_text(f"{note.read_text()}\n")
    assert "error: the tree has changes (src/nmt/scoring.py); commit them first" in project.nmt(
        "promote", "plain", status=1
    )
    project.commit("An edit whose results nobody has seen")
    assert "error: `dvc status` is not up to date (evaluate@" in project.nmt("promote", "plain", status=1)
    assert "champion" not in aliases(project)
    project.dvc("repro")
    if project.run("git", "status", "--porcelain"):
        project.commit("Its results")

    assert "promoted, there was no champion" in project.nmt("promote", str(versions["plain"]))
    assert aliases(project)["champion"] == versions["plain"]
    assert "is the champion already" in project.nmt("promote", "plain")
    assert "promoted, better than version" in project.nmt("promote", "attention")
    assert aliases(project)["champion"] == versions["attention"]
    assert "refused, not better than version" in project.nmt("promote", str(versions["plain"]), status=1)
    assert aliases(project)["champion"] == versions["attention"]
    assert "--force needs a reason" in project.nmt("promote", "plain", "--force", " ", status=1)
    assert "promoted, forced: it garbles names" in project.nmt("promote", "plain", "--force", "it garbles names")
    assert aliases(project)["champion"] == versions["plain"]

    log = project.run("git", "show", "HEAD:reports/promotions.csv").splitlines()
    assert [line.split(",")[4] for line in log[1:]] == ["promoted", "promoted", "refused", "promoted"]
    assert project.run("git", "status", "--porcelain") == ""
    assert "nmt-de-en version" in project.run("git", "log", "-1", "--format=%s")
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        (card,) = database.execute(
            "select description from model_versions where version = ?", [versions["plain"]]
        ).fetchone()
    database.close()
    found = version_tags(project, versions["plain"])
    assert found["promotion.decision"] == "promoted"
    assert found["promotion.reason"] == "forced: it garbles names"
    assert len(card.split("## Promotion")[1].strip().splitlines()) == 3
    assert project.nmt("translate", "--model", "models:/nmt-de-en@champion", "ich sehe eins rote Bäume.").strip()


def test_doctor_finds_what_is_wrong(published: Project, tmp_path: Path) -> None:
    """A healthy project; then each fault that can be made here, with what to do, and exit status 1."""
    project = copy_of(published, tmp_path / "project")
    healthy = project.nmt("doctor")
    assert "BROKEN" not in healthy
    for subject in ("python", "PATH", "packages", "git", "inputs", "DVC remote", "MLflow", "GPU", "disk", "fonts"):
        assert re.search(rf"^(ok|note) +{subject}", healthy, re.MULTILINE), healthy
    assert "data/local.tsv is not in git" in healthy

    (project.folder / "src/nmt/model/stray.py").write_text('"""Not in git."""\n')
    project.dvc("remote", "add", "--default", "away", "http://127.0.0.1:9/nothing")
    pins = project.folder / "requirements.lock"
    pins.write_text(pins.read_text() + "no-such-package-here==1.0\n")
    output = project.nmt("doctor", status=1, MLFLOW_TRACKING_URI="http://127.0.0.1:9", PATH="/usr/bin:/bin")
    for fault in (
        r"BROKEN PATH .*source \.venv/bin/activate",
        r"BROKEN packages .*no-such-package-here missing, not 1\.0\); `make setup`",
        r"BROKEN inputs .*src/nmt/model/stray\.py; `git add` it",
        r"BROKEN DVC remote does not answer",
        r"BROKEN MLflow .*no answer from http://127\.0\.0\.1:9",
        r"note +git .*uncommitted changes",
    ):
        assert re.search(fault, output), f"{fault}\n{output}"

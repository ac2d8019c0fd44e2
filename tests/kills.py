"""Kill `dvc repro` at random moments, let it run again, and hold every output to the md5 of an uninterrupted run.

    python -m tests.kills 50 --seed 1 --folder /tmp/kills

A small corpus and tiny models, on which git, DVC and MLflow run for real. Each trial takes a copy of the finished
project, forgets one stage (outputs, dvc.lock, run cache, the MLflow run of what is trained), with `--onward` also all
that follow from it, starts `dvc repro`, and kills by SIGKILL at a random moment while that stage runs, or while DVC
hashes and records what it wrote:

    all     dvc and its stage, by process group: a machine that loses power, a container that is stopped
    dvc     dvc alone: its stage must end by itself
    stage   the stage's process alone

Then `dvc repro` again, at once, to the end; dvc.lock must be the uninterrupted one, MLflow must hold the same points
once each, no draft may be left behind, and no process.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.project import Project, edit_yaml, new_project

KINDS = ("all", "dvc", "stage")
ENDED = "had ended"
EMPTY_STORE = "mlflow.db.empty"
RUNNING = "Running stage '"
SECONDS = 1800.0
ENVIRONMENT = {"NMT_CHECKPOINT_SECONDS": "0.2", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Kill:
    """What is killed, in which stage, how many seconds after it began."""

    stage: str
    seconds: float
    kind: str


def locked(project: Project) -> dict[str, Any]:
    """The stages of dvc.lock."""
    stages: dict[str, Any] = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]
    return stages


def forget(project: Project, stage: str, *, onward: bool) -> list[str]:
    """Make DVC run a stage, with `onward` all that follow from it, as if they had never run; name them."""
    stages = locked(project)
    forgotten = [stage, *(followers(stages, stage) if onward else [])]
    for name in forgotten:
        for out in stages[name]["outs"]:
            path = project.folder / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = {name: entry for name, entry in stages.items() if name not in forgotten}
    edit_yaml(project.folder / "dvc.lock", {"stages": kept})
    shutil.rmtree(project.folder / ".dvc/cache/runs")
    return forgotten


def followers(stages: Mapping[str, Any], stage: str) -> list[str]:
    """The stages that read what a stage writes, and theirs."""
    written = {out["path"] for out in stages[stage]["outs"]}
    todo = [name for name, entry in stages.items() if any(meet(dep["path"], written) for dep in entry["deps"])]
    return list(dict.fromkeys([*todo, *(after for name in todo for after in followers(stages, name))]))


def meet(dep: str, written: set[str]) -> bool:
    """Whether a dependency is an output, in one, or a folder that holds one."""
    return any(f"{dep}/".startswith(f"{out}/") or f"{out}/".startswith(f"{dep}/") for out in written)


def start(project: Project, log: Path, *targets: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Start `dvc repro` in a process group of its own; what it prints goes to a file."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *targets],
            cwd=project.folder,
            env=project.environment() | ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def killed(project: Project, kill: Kill, log: Path, *targets: str, **environment: str) -> str:
    """Run `dvc repro`, kill, and tell what came of it; DVC has ended when this returns."""
    process = start(project, log, *targets, **environment)
    try:
        begun = wait_for(f"{RUNNING}{kill.stage}'", log, process)
        time.sleep(max(0.0, begun + kill.seconds - time.monotonic()))
        stages = [one for one in children(process.pid) if "nmt.stages" in " ".join(one.cmdline())]
        if process.poll() is not None:
            return ENDED
        if kill.kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif kill.kind == "dvc" or not stages:  # while DVC hashes and records there is no stage to kill
            process.kill()
        else:
            stages[0].kill()
        process.wait(60)
    finally:
        process.kill()
    return "in the stage" if stages else "in DVC"


def children(pid: int) -> list[psutil.Process]:
    """The processes below one that still are there."""
    try:
        return [one for one in psutil.Process(pid).children(recursive=True) if one.is_running() and one.cmdline()]
    except psutil.Error:
        return []


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> float:
    """The moment at which a text stands in the log."""
    deadline = time.monotonic() + SECONDS
    while text.encode() not in log.read_bytes():
        assert process.poll() is None, f"dvc ended before {text}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"{text} did not come:\n{log.read_text()}"
        time.sleep(0.02)
    return time.monotonic()


def finish(project: Project, log: Path, *targets: str, **environment: str) -> None:
    """Run `dvc repro` to its end."""
    process = start(project, log, *targets, **environment)
    try:
        status = process.wait(SECONDS)
    finally:
        process.kill()
    assert status == 0, f"dvc repro ended with {status}:\n{log.read_text()}"


def timed(project: Project, log: Path) -> dict[str, float]:
    """Run the whole pipeline; the seconds from each stage's begin to the next one's."""
    process = start(project, log)
    begun: dict[str, float] = {}
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith(RUNNING):
                begun.setdefault(line.split("'")[1], time.monotonic())
        time.sleep(0.02)
    assert process.returncode == 0, log.read_text()
    ends = [*list(begun.values())[1:], time.monotonic()]
    return {name: end - begin for (name, begin), end in zip(begun.items(), ends, strict=True)}


def points(project: Project) -> Counter[tuple[str, str, int]]:
    """How often MLflow holds each step of each curve of each run."""
    query = "select name, key, step from metrics join runs using (run_uuid)"
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        rows = database.execute(query).fetchall()
    database.close()
    return Counter(rows)


def left_behind(project: Project) -> Iterator[str]:
    """Processes of the project, which get some seconds to end, and drafts."""
    deadline = time.monotonic() + 25.0
    while (alive := list(processes(project))) and time.monotonic() < deadline:
        time.sleep(0.1)
    yield from alive
    yield from (str(path) for path in project.folder.rglob(".*.draft") if ".dvc" not in path.parts)


def processes(project: Project) -> Iterator[str]:
    """Stages and dvc's that work in the project's folder."""
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if process.cwd() == str(project.folder) and ("nmt.stages" in command or "dvc repro" in command):
                yield f"{process.pid} {command}"
        except psutil.Error:
            continue


def trial(whole: Project, folder: Path, kill: Kill, *, onward: bool) -> tuple[str, list[str]]:
    """One kill in a copy of the whole project: where it struck, and what is wrong after `dvc repro`."""
    project = whole.copy(folder / "project")
    retrained = [name for name in forget(project, kill.stage, onward=onward) if name.startswith("train@")]
    forget_runs(whole, project, retrained)
    place = killed(project, kill, folder / "killed.log")
    mended = project.nmt("mend")
    finish(project, folder / "finished.log")
    return place + (", dvc.lock cut off" if mended else ""), differences(whole, project, retrained)


def forget_runs(whole: Project, project: Project, retrained: list[str]) -> None:
    """An MLflow store without runs, and no live points of the models that are trained anew."""
    if not retrained:
        return
    shutil.rmtree(project.folder / "mlartifacts")
    (project.folder / "mlflow.db").unlink()
    if (whole.folder / EMPTY_STORE).exists():  # which saves the making of one
        shutil.copy(whole.folder / EMPTY_STORE, project.folder / "mlflow.db")
        project.move_store(whole.folder)
    for name in retrained:
        summary = whole.folder / "reports/training" / name.removeprefix("train@").replace("-", "/") / "summary.json"
        training_id = json.loads(summary.read_text())["training_id"]
        (project.folder / f".nmt/live/{training_id}.jsonl").unlink()


def differences(whole: Project, project: Project, retrained: list[str]) -> list[str]:
    """What is not as in the uninterrupted project: dvc.lock, the runs in MLflow, what is left behind.

    The run of each model that was trained again must be there; another may not have been published again.
    """
    before, after = locked(whole), locked(project)
    wrong = [name for name in before | after if before.get(name) != after.get(name)]
    expected, found = points(whole), points(project)
    trained = tuple(f"{name.removeprefix('train@').rpartition('-')[0]}-" for name in retrained)
    runs = {run for run, _, _ in found} | {run for run, _, _ in expected if run.startswith(trained)}
    if found != Counter({point: count for point, count in expected.items() if point[0] in runs}):
        wrong.append("points in MLflow")
    return [*wrong, *left_behind(project)]


def whole_project(folder: Path) -> tuple[Project, dict[str, float]]:
    """The uninterrupted project, an empty store beside its own, and the seconds that each stage took."""
    whole = new_project(folder / "whole")
    prepare = "from nmt.tracking.store import open_store; open_store('nmt')"
    whole.run("python", "-c", prepare, PYTHONPATH="src")
    shutil.copy(whole.folder / "mlflow.db", whole.folder / EMPTY_STORE)
    seconds = timed(whole, folder / "whole.log")
    (folder / "seconds.json").write_text(json.dumps(seconds))
    return whole, seconds


def drawn(seconds: Mapping[str, float], trials: int, seed: int) -> Iterator[Kill]:
    """Each stage and kind in turn, so that all are met, each at a moment drawn anew."""
    generator = random.Random(seed)
    stages = list(seconds)
    for number in range(trials):
        stage = stages[number % len(stages)]
        yield Kill(stage, generator.uniform(0.0, seconds[stage]), generator.choice(KINDS))


def main() -> None:
    """Run the trials and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trials", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="the trial to begin with")
    parser.add_argument("--onward", action="store_true", help="run again all that follow, too: minutes a trial")
    parser.add_argument("--folder", type=Path, required=True, help="for the projects; a whole one there is used again")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if (folder / "seconds.json").exists():
        whole, seconds = Project(folder / "whole"), json.loads((folder / "seconds.json").read_text())
    else:
        whole, seconds = whole_project(folder)
    print("| trial | stage | second | of | killed | struck | result |\n|--:|---|--:|--:|---|---|---|", flush=True)
    failed = 0
    for number, kill in enumerate(drawn(seconds, arguments.trials, arguments.seed), start=1):
        if number < arguments.first:
            continue
        place, wrong = trial(whole, folder / str(number), kill, onward=arguments.onward)
        while place == ENDED and not wrong:  # that was no kill: the machine is quicker now
            shutil.rmtree(folder / str(number))
            kill = replace(kill, seconds=kill.seconds / 2)
            place, wrong = trial(whole, folder / str(number), kill, onward=arguments.onward)
        result = f"DIFFERS: {', '.join(wrong)}" if wrong else "same"
        moment = f"{kill.seconds:.2f} | {seconds[kill.stage]:.2f}"
        print(f"| {number} | {kill.stage} | {moment} | {kill.kind} | {place} | {result} |", flush=True)
        failed += bool(wrong)
        if not wrong:
            shutil.rmtree(folder / str(number))
    sys.exit(f"{failed} of {arguments.trials} differ" if failed else 0)


if __name__ == "__main__":
    main()

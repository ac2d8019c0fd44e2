"""DVC's experiments: the commits that hold them, and the queue that runs them."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from nmt import paths
from nmt.config import load_yaml
from nmt.errors import UserError
from nmt.leaderboard import leaves
from nmt.processes import PROCESSES, cores
from nmt.repository import dvc, git

POLL_SECONDS = 2.0
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.,=+-]+")  # in a name of git's
_LONGEST_NAME = 80
PATIENCE = 10
"""Polls without any worker after which a job counts as lost."""

QUEUED, RUNNING, FAILED, MISSING, DONE = "queued", "running", "failed", "missing", "done"


@dataclass(frozen=True)
class Experiment:
    """A finished experiment: a commit beside the branches."""

    name: str
    baseline: str
    commit: str


@dataclass(frozen=True)
class Trial:
    """One experiment to be."""

    name: str
    overrides: tuple[str, ...]
    targets: tuple[str, ...] = ()
    """The stages that it is about; all, if none is named."""


def finished() -> list[Experiment]:
    """All experiments of this repository, by baseline and name (`refs/exps/<2 digits>/<38 digits>/<name>`)."""
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    found = []
    for line in listed.splitlines():
        reference, commit = line.rsplit(" ", 1)
        parts = reference.split("/", 4)
        if len(parts) == 5 and len(parts[2] + parts[3]) == 40:
            found.append(Experiment(parts[4], parts[2] + parts[3], commit))
    return found


def trials(settings: Sequence[str], state: str) -> list[Trial]:
    """The points of a grid in the notation of `dvc exp run --set-param`: `train.learning_rate=0.003,0.005`.

    A trial is named after its values, so that one knows it at a glance and a second call finds it. The keys in a name
    are as short as no other key of params.yaml is, so another sweep's trials have other names. `state` tells the trials
    of a changed workspace from those of the commit; it is empty where nothing is changed.

    Raises:
        UserError: the notation is wrong, or two points are the same.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps

    try:
        points = [tuple(point[paths.PARAMS.name]) for point in get_hydra_sweeps({paths.PARAMS.name: list(settings)})]
    except Exception as error:  # hydra has errors of its own, and no common base
        if not isinstance(error, DvcException) and not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise UserError(f"{' '.join(settings)} is not a grid; write -S train.learning_rate=0.003,0.005") from None
    if len(set(points)) < len(points):
        raise UserError(f"{' '.join(settings)} has the same point twice")
    known = {key for key, _ in leaves(load_yaml(paths.PARAMS))}
    return [Trial(_name(point, state, known), point) for point in points]


def _name(point: Sequence[str], state: str, known: Collection[str]) -> str:
    """Such as `learning_rate=0.003,output=0.2`: keys as short as tells them apart; legal for git, and not too long."""
    pairs = [one.lstrip("+~").split("=", 1) for one in point]
    keys = {*known, *(key for key, *_ in pairs)}
    plain = ",".join("=".join([_short(key, keys), *value]) for key, *value in pairs)
    legal = _ILLEGAL.sub("-", plain).strip(".-")[:_LONGEST_NAME]
    if legal == plain and not state:
        return legal
    return f"{legal}-{hashlib.sha256(repr((point, state)).encode()).hexdigest()[:8]}"


def _short(key: str, keys: Collection[str]) -> str:
    """The last parts of a dotted key that no other key ends with."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        ending = ".".join(parts[-count:])
        if sum(other == ending or other.endswith(f".{ending}") for other in keys) == 1:
            return ending
    return key


def states(names: Iterable[str]) -> dict[str, str]:
    """How far each trial on the present commit is; a finished one is done whatever the queue remembers of it."""
    head = _head()
    done = {one.name for one in finished() if one.baseline == head}
    known = {name: task.state for name, task in _tasks().items()}
    return {name: DONE if name in done else known.get(name, MISSING) for name in names}


def enqueue(trial: Trial) -> None:
    """Put a trial into DVC's queue, as the workspace is now."""
    overrides = [word for one in trial.overrides for word in ("--set-param", one)]
    dvc("exp", "run", "--queue", "--name", trial.name, *overrides, *trial.targets)


def forget(name: str) -> None:
    """Take a task that failed out of the queue, so that its name is free."""
    if task := _tasks().get(name):
        dvc("queue", "remove", task.revision)


def start_workers(jobs: int) -> None:
    """Have up to `jobs` workers; those that run already go on. They end by themselves when the queue is empty.

    Each takes its share of the cores, since its stages see none of the others'.
    """
    os.environ.setdefault(PROCESSES, str(max(1, cores() // jobs)))
    dvc("queue", "start", "--jobs", str(jobs))


def wait(trials: Sequence[Trial], jobs: int, report: Callable[[dict[str, str]], None]) -> dict[str, str]:
    """Wait until no trial is queued or running, and return their states.

    Workers that ended too early are started again: DVC's sometimes take an empty queue for the end while a job has just
    begun, and end after it. A job whose worker died under it is ended and queued again, once: what takes two workers
    down counts as failed.
    """
    without_worker, lost = 0, set[str]()
    while True:
        now = states(trial.name for trial in trials)
        report(now)
        if not {QUEUED, RUNNING} & set(now.values()):
            return now
        without_worker = 0 if workers() else without_worker + 1
        if without_worker >= PATIENCE:
            orphans = [trial for trial in trials if now[trial.name] == RUNNING]
            for orphan in orphans:
                kill(orphan.name)
            again = [orphan for orphan in orphans if orphan.name not in lost]
            _queue_again(again)
            lost |= {orphan.name for orphan in again}
            start_workers(jobs)
            without_worker = 0
        time.sleep(POLL_SECONDS)


def _queue_again(orphans: Sequence[Trial]) -> None:
    """Queue those that count as failed now; one that had ended after all is left as it is."""
    now = states(orphan.name for orphan in orphans)
    for orphan in orphans:
        if now[orphan.name] == FAILED:
            forget(orphan.name)
            enqueue(orphan)


def kill(name: str) -> None:
    """End a running job at once."""
    try:
        if task := _tasks().get(name):
            dvc("queue", "kill", "--force", task.revision)
    except UserError as error:  # it ended meanwhile
        print(error, file=sys.stderr)


def workers() -> int:
    """How many worker processes of this workspace live; one that ends after its present job answers no longer."""
    import psutil
    from dvc.repo import Repo

    with Repo() as repo:
        folder = repo.experiments.celery_queue.wdir
    node = f"dvc-exp-{hashlib.sha256(folder.encode()).hexdigest()[:6]}-"  # so DVC names them
    commands = (one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"]))
    return sum("queue-worker" in command and any(word.startswith(node) for word in command) for command in commands)


@dataclass(frozen=True)
class _Task:
    """A trial in DVC's queue."""

    revision: str
    """The commit in which DVC has stashed it, and its only name that no task of another commit shares."""
    state: str


def _tasks() -> dict[str, _Task]:
    """By name, the tasks that began at the present commit: DVC's queue forgets none, and goes by names alone."""
    from dvc.repo import Repo

    with Repo() as repo:
        queue = repo.experiments.celery_queue
        entries = [(FAILED, done.entry) for done in queue.iter_failed()]
        entries += [(QUEUED, entry) for entry in queue.iter_queued()]
        entries += [(RUNNING, entry) for entry in queue.iter_active()]  # what runs outlives what failed before it
    head = _head()
    return {entry.name: _Task(entry.stash_rev, state) for state, entry in entries if entry.baseline_rev == head}


def _head() -> str:
    return git("rev-parse", "HEAD").strip()

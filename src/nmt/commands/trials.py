"""How `nmt sweep` and `nmt study` carry out their trials: queued, run side by side, waited for and checked."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nmt import experiments, tracking
from nmt.commands.numbers import positive
from nmt.errors import UserError
from nmt.experiments import DONE, FAILED, MISSING, Trial
from nmt.leaderboard import Snapshot
from nmt.processes import cores
from nmt.repository import git
from nmt.snapshots import of_experiments


@dataclass(frozen=True)
class Outcome:
    """What became of some trials."""

    snapshots: Sequence[Snapshot]
    """Of those that are experiments of the present commit."""
    done: int
    faults: Sequence[str]
    """What each of the others lacks, and what to do."""


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how many run at the same time."""
    parser.add_argument("--jobs", type=positive, help="trials at the same time (default: as many as there are cores)")


def carry_out(trials: Sequence[Trial], jobs: int | None) -> Outcome:
    """Queue what is missing, wait until nothing runs, and check that each has finished runs in MLflow."""
    before = experiments.states(trial.name for trial in trials)
    for trial in trials:
        _queue(trial, before[trial.name])
    jobs = jobs or cores()
    if any(state != DONE for state in before.values()):
        experiments.start_workers(min(jobs, len(trials)))
    after = experiments.wait(trials, jobs, Progress())
    snapshots = _snapshots(trials)
    return Outcome(snapshots, list(after.values()).count(DONE), [*_unfinished(trials, after), *_untracked(snapshots)])


class Progress:
    """Says how many trials are where, when that has changed."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, states: dict[str, str]) -> None:
        """Take the states of all trials."""
        text = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
        if text != self._said:
            print(text, file=sys.stderr, flush=True)
        self._said = text


def _queue(trial: Trial, state: str) -> None:
    """Have DVC queue a trial that is neither done nor on its way."""
    if state == FAILED:
        experiments.forget(trial.name)
    if state in (FAILED, MISSING):
        experiments.enqueue(trial)
    print(f"{trial.name}: {'queued' if state in (FAILED, MISSING) else state}", file=sys.stderr)


def _unfinished(trials: Sequence[Trial], states: dict[str, str]) -> list[str]:
    """What to do about trials that are no experiment."""
    return [
        f"{trial.name} {states[trial.name]}: `dvc queue logs {trial.name}` tells why; the same command queues it again"
        for trial in trials
        if states[trial.name] != DONE
    ]


def _untracked(snapshots: Sequence[Snapshot]) -> list[str]:
    """What to do about experiments that lack a run of one of their results."""
    results = {snapshot.name: {str(one["result_id"]) for one in snapshot.scores} for snapshot in snapshots}
    wanted = set[str]().union(*results.values())
    try:
        known = tracking.known_results(wanted) if wanted else wanted
    except UserError as error:
        return [f"MLflow was not asked for the runs: {error}"]
    faults = [f"{name} has no result" for name, ids in results.items() if not ids]
    return faults + [
        f"{name}: no finished run of {', '.join(sorted(ids - known))}; `dvc exp apply {name}` and `nmt publish` make it"
        for name, ids in results.items()
        if ids - known
    ]


def _snapshots(trials: Sequence[Trial]) -> list[Snapshot]:
    """The results of the trials that are experiments of the present commit."""
    names, head = {trial.name for trial in trials}, git("rev-parse", "HEAD").strip()
    return of_experiments(one for one in experiments.finished() if one.name in names and one.baseline == head)

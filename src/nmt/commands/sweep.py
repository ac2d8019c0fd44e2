"""`nmt sweep`: a grid of experiments as one command, queued, run, checked and ranked.

Each point becomes a DVC experiment named after its values. Several run side by side on a CPU (--jobs); on a GPU they
train one at a time. A second call goes on where the first was interrupted: what is done stays, what failed is queued
again. At the end every trial must be a DVC experiment whose results have finished MLflow runs; the exit status is 1 if
one is not. Ctrl-C leaves the workers at work; `dvc queue stop --kill` ends them.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nmt import experiments, tracking
from nmt.commands.leaderboard import show
from nmt.errors import UserError
from nmt.experiments import DONE, FAILED, MISSING, Trial
from nmt.leaderboard import Snapshot, leaderboard
from nmt.repository import git
from nmt.snapshots import HEAD, committed, of_experiments
from nmt.tracking.provenance import local_changes

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        required=True,
        metavar="NAME=V1,V2",
        help="values of one parameter, as `dvc exp run --set-param` takes them; several of these span the grid",
    )
    parser.add_argument("--jobs", type=_positive, help="trials at the same time (default: as many as there are cores)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Queue what is missing, wait, check, rank."""
    trials = experiments.trials(arguments.set_param, local_changes())
    before = experiments.states(trial.name for trial in trials)
    for trial in trials:
        _queue(trial, before[trial.name])
    jobs = arguments.jobs or len(os.sched_getaffinity(0))
    if any(state != DONE for state in before.values()):
        experiments.start_workers(min(jobs, len(trials)))
    after = experiments.wait(trials, jobs, Progress())
    faults = [*_unfinished(trials, after), *_untracked(trials)]
    for fault in faults:
        print(fault)
    show(leaderboard([committed(HEAD, HEAD), *_snapshots(trials)], "bleu"))
    print(f"{len(trials)} trials, {list(after.values()).count(DONE)} done, {len(faults)} faults")
    return int(bool(faults))


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


def _untracked(trials: Sequence[Trial]) -> list[str]:
    """What to do about experiments that lack a run of one of their results."""
    results = {snapshot.name: {str(one["result_id"]) for one in snapshot.scores} for snapshot in _snapshots(trials)}
    try:
        known = tracking.known_results(set().union(*results.values()))
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of jobs")
    return int(text)

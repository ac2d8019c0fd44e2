"""`nmt sweep`: a grid of experiments as one command, queued, run, checked and ranked.

Each point becomes a DVC experiment named after its values. Several run side by side on a CPU (--jobs); on a GPU they
train one at a time. A second call goes on where the first was interrupted: what is done stays, what failed is queued
again. At the end every trial must be a DVC experiment whose results have finished MLflow runs; the exit status is 1 if
one is not. Ctrl-C leaves the workers at work; `dvc queue stop --kill` ends them.
"""

import argparse
from typing import TYPE_CHECKING

from nmt import experiments
from nmt.commands.leaderboard import show
from nmt.commands.trials import add_jobs, carry_out
from nmt.leaderboard import leaderboard
from nmt.snapshots import HEAD, committed
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
    add_jobs(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Queue what is missing, wait, check, rank."""
    trials = experiments.trials(arguments.set_param, local_changes())
    outcome = carry_out(trials, arguments.jobs)
    for fault in outcome.faults:
        print(fault)
    show(leaderboard([committed(HEAD, HEAD), *outcome.snapshots], "bleu"))
    print(f"{len(trials)} trials, {outcome.done} done, {len(outcome.faults)} faults")
    return int(bool(outcome.faults))

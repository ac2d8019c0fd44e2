"""`nmt leaderboard`: the results of the present commit, the workspace and all DVC experiments, best first.

Only results on the present commit's test set are ranked, each with its bootstrap interval; `parameters` are those that
differ from the present commit's. `nmt link RESULT` leads to a result's page in MLflow.
"""

import argparse
from typing import TYPE_CHECKING

from nmt import paths
from nmt.errors import UserError
from nmt.files import write_csv
from nmt.leaderboard import METRICS, Leaderboard, leaderboard, plain_text
from nmt.snapshots import all_snapshots

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--by", choices=list(METRICS), default="bleu", help="the score that ranks (default: bleu)")
    parser.add_argument("--save", action="store_true", help=f"write {paths.LEADERBOARD}, which git keeps, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Rank and print."""
    ranked = leaderboard(all_snapshots(), arguments.by)
    if not ranked.rows:
        raise UserError("there is no result yet; `make repro` makes the first")
    if arguments.save:
        write_csv(paths.LEADERBOARD, ranked.rows)
    show(ranked)
    return 0


def show(ranked: Leaderboard) -> None:
    """Print the table, and what is not in it."""
    print(plain_text(ranked.rows))
    if ranked.left_out:
        print(f"left out: {ranked.left_out} results on another test set, or scored in another way")

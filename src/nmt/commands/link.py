"""`nmt link`: the address of a result's page in MLflow, and where the result came from.

`dvc exp show`, `nmt leaderboard` and the scores in reports/ name each result's id; its first digits are enough.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmt.tracking.links import Link

    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("link", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="RESULT_ID", help="or a run's name or id, or a DVC experiment of one model")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the address alone on the first line, for a browser or a pipe, and the run's origin below."""
    from nmt import tracking  # imports what mlflow needs only when the command runs

    found = tracking.link(arguments.name)
    print(found.url)
    print(_facts(found))
    return 0


def _facts(found: "Link") -> str:
    """Run, result, commit and experiment in one line."""
    commit = f"commit {found.commit[:10]}" if found.commit else "no commit"
    changed = " with changes" if found.changed else ""
    experiment = f", DVC experiment {found.experiment}" if found.experiment else ""
    return f"{found.name} ({found.status.lower()}), result {found.result_id}, {commit}{changed}{experiment}"

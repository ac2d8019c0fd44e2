"""`nmt mend`: put right what a dvc that was killed has left half-written; `make repro` begins with it.

No work is lost by it. What a killed stage left needs no mending: `dvc repro` goes on from there.
"""

import argparse
from typing import TYPE_CHECKING

from nmt import mending

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("mend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was put right."""
    for line in mending.mend():
        print(line, flush=True)
    return 0

"""`nmt doctor`: check this machine and this folder; each line says how it stands and what to do.

ok: nothing to do. note: it works, but you may want to know. BROKEN: something will fail; the exit status is 1.
"""

import argparse
from typing import TYPE_CHECKING

from nmt import diagnosis

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding as soon as it is there."""
    broken = False
    for finding in diagnosis.diagnose():
        print(finding, flush=True)
        broken |= finding.state == diagnosis.BROKEN
    return int(broken)

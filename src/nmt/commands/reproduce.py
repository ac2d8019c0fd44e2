"""`nmt reproduce`: make a run again from nothing but what its MLflow run remembers, and compare every output.

The run's commit is checked out into a fresh clone, its changes and its parameters go on top, and its stages run there
with an empty cache and without tracking. Prints "identical" (exit status 0), or "differs: " and the outputs that have
another md5 than recorded (exit status 1). The corpus is not downloaded again if this project's cache has it, unharmed.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nmt import reproduction, tracking
from nmt.errors import UserError

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="RUN", help="a run's name or id, or a result's id or its first digits")
    parser.add_argument("--folder", type=Path, help="work in this new folder and keep it (default: a temporary one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reproduce and say whether every output is the same."""
    origin = tracking.origin(arguments.name)
    with _workplace(arguments.folder) as folder:
        stages, differing = reproduction.reproduce(origin, folder)
    if differing:
        print(f"differs: {', '.join(differing)}")
        return 1
    print(f"identical: {sum(map(len, stages.values()))} outputs of {len(stages)} stages, {origin.name}")
    return 0


@contextlib.contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    """A folder that does not exist yet, in a place that does."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="nmt-reproduce-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch) / "clone"
    elif folder.exists():
        raise UserError(f"{folder} is there already; name a new folder")
    else:
        yield folder.absolute()

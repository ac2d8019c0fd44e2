"""What every stage does around its own work: arguments, one process at a time, one-line errors."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from nmt import files, paths, processes, unfinished
from nmt.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a stage that takes no argument."""
    _guarded(_name(), main)


def run_for_model(main: Callable[[str, int], None]) -> None:
    """Run a stage of one variant and one seed, named on the command line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit(f"usage: python -m nmt.stages.{_name()} VARIANT SEED")
    variant, seed = sys.argv[1], int(sys.argv[2])
    _guarded(paths.stage(_name(), variant, seed), lambda: main(variant, seed))


def run_for_variant(main: Callable[[str], None]) -> None:
    """Run a stage of one variant, all its seeds together, named on the command line."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m nmt.stages.{_name()} VARIANT")
    variant = sys.argv[1]
    _guarded(f"{_name()}@{variant}", lambda: main(variant))


def share_of_cores() -> int:
    """How many cores are left for each of the stages at work here, this one among them; at least one."""
    at_work = sum(unfinished.is_held(lock) for lock in paths.stage_locks())
    return max(1, processes.cores() // max(1, at_work))


def _name() -> str:
    """The stage's name, which is its file's."""
    return Path(sys.argv[0]).stem


def _guarded(name: str, work: Callable[[], None]) -> None:
    """Do the work; whatever a user can put right ends in one line."""
    logging.basicConfig(format="%(message)s")  # to standard error
    logging.getLogger("nmt").setLevel(logging.INFO)
    try:
        with _alone(name):
            work()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        sys.exit(f"error: {files.told(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time: if DVC was killed just now, the stage that it had started may take a moment to end.

    The processes that torchrun starts are one: those of them that must be alone see to it themselves.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        yield
        return
    with unfinished.alone(paths.stage_lock(name), f"another process runs {name} here"):
        unfinished.clear()
        yield

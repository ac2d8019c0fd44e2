"""What every stage does around its own work: arguments, one-line errors."""

import logging
import sys
from collections.abc import Callable

from nmt.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a stage that takes no argument."""
    _guarded(main)


def run_for_model(main: Callable[[str, int], None]) -> None:
    """Run a stage of one variant and one seed, named on the command line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit(f"usage: python -m {main.__module__} VARIANT SEED")
    _guarded(lambda: main(sys.argv[1], int(sys.argv[2])))


def _guarded(work: Callable[[], None]) -> None:
    logging.basicConfig(format="%(message)s")  # to standard error
    logging.getLogger("nmt").setLevel(logging.INFO)
    try:
        work()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

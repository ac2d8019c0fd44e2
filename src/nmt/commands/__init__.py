"""The `nmt` command line: what is no stage, because its effect is outside the repository or nobody depends on it."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import nmt
from nmt.errors import UserError

COMMANDS = {
    "translate": "translate lines with a trained model",
    "score": "log-probabilities of given translations",
    "serve": "answer requests for translations over HTTP, with a page to try them",
    "align": "word links of given translations, held against hand-made ones",
    "publish": "bring results into MLflow that are not there yet",
    "preset": "set params.yaml to a known recipe",
    "link": "the MLflow page of a result, and where the result came from",
    "reproduce": "make a run again in a fresh clone and compare every output",
    "sweep": "queue a grid of experiments, run them and check that each is complete",
    "study": "what each step of a recipe is worth, as one table",
    "leaderboard": "all results on this test set, best first, with intervals",
    "promote": "make a model the champion if it beats the present one",
    "mend": "put right what a dvc that was killed left half-written",
    "doctor": "check this machine and this folder, and say what to do",
    "readme": "bring the README's result table up to date",
}
"""Each is the module of the same name, imported when it is called."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `nmt ARGUMENTS` and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        chosen = _parser(arguments).parse_args(arguments)
        status: int = chosen.run(chosen)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `nmt ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        from nmt.files import told  # not above: it imports numpy, and `nmt --help` is to come at once

        if error.filename is None and error.errno is None:
            raise
        print(f"error: {told(error)}", file=sys.stderr)
        return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """All commands by name; only the one that is called brings its options, and its imports."""
    parser = argparse.ArgumentParser(prog="nmt", description=nmt.__doc__)
    parser.add_argument("--version", action="version", version=f"nmt {nmt.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == called:
            importlib.import_module(f"nmt.commands.{name}").register(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser

"""`nmt preset`: set `params.yaml` to a known recipe."""

import argparse
import difflib

from nmt import paths, presets
from nmt.files import read_text, write_text


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("preset", description="set params.yaml to a known recipe; without NAME, list them")
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rewrite the values that the preset names, and show which lines changed."""
    if args.name is None:
        for name in presets.names():
            print(f"{name:20} {_summary(name)}")
        return 0
    before, after = read_text(paths.PARAMS), presets.applied(args.name)
    changed = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    lines = [line for line in changed if line[0] in "+-" and not line.startswith(("+++", "---"))]
    print("\n".join(lines) or f"{paths.PARAMS} is like this already")
    if lines and not args.dry_run:
        write_text(paths.PARAMS, after)
    return 0


def _summary(name: str) -> str:
    """The comment on a preset's first line."""
    return read_text(paths.preset(name)).partition("\n")[0].removeprefix("# ")

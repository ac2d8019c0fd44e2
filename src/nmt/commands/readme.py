"""`nmt readme`: bring the README's result table up to date with the comparison."""

import argparse
from pathlib import Path

from nmt import paths, reporting
from nmt.errors import UserError
from nmt.files import read_json, read_text, write_text
from nmt.testset import present

README = Path("README.md")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("readme", description="bring the README's result table up to date")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rewrite the block between the README's markers."""
    comparison = read_json(present(paths.COMPARISON / "comparison.json", "compare"))
    write_text(README, with_table(read_text(README), reporting.readme_table(comparison)))
    return 0


def with_table(readme: str, table: str) -> str:
    """Return the README with `table` between its markers, or say that they are missing."""
    begin, found_begin, rest = readme.partition(reporting.README_BEGIN)
    _, found_end, end = rest.partition(reporting.README_END)
    if not (found_begin and found_end):
        raise UserError(f"{README} lacks the lines {reporting.README_BEGIN} and {reporting.README_END}; add them")
    return f"{begin}{reporting.README_BEGIN}\n{table}\n{reporting.README_END}{end}"

"""Log-probabilities of given translations.

For each pair of lines one line out, tab-separated: the target's natural log-probability given the source, the
perplexity per token (eos included), and the target. The pairs stand in two files, or as SOURCE<tab>TARGET in one, or on
standard input.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.commands.lines import blocks, file_lines, standard_input
from nmt.commands.model_choice import add_ensemble_option, add_model_options, load_chosen
from nmt.errors import UserError

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "score",
        help="log-probabilities of given translations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="the sources and the targets, line by line")
    parser.add_argument("--pairs", type=Path, metavar="TSV", help="source and target in the columns of one file")
    add_model_options(parser)
    add_ensemble_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score and print."""
    pairs = _pairs(arguments)
    translator = load_chosen(arguments)
    for block in blocks(pairs):
        sources, targets = zip(*block, strict=True)
        for target, forced in zip(targets, translator.score(sources, targets), strict=True):
            perplexity = math.exp(-forced.log_probability / len(forced.pieces))
            print(f"{forced.log_probability:.4f}\t{perplexity:.3f}\t{target}")
        print(end="", flush=True)
    return 0


def _pairs(arguments: argparse.Namespace) -> Iterable[tuple[str, str]]:
    if arguments.files and arguments.pairs:
        raise UserError("give two files or --pairs, not both")
    if arguments.pairs:
        return list(_columns(file_lines(arguments.pairs), str(arguments.pairs)))
    if not arguments.files:
        return _columns(standard_input(), "standard input")
    if len(arguments.files) != 2:
        raise UserError("two files are needed, the sources and the targets; or --pairs with one of two columns")
    sources, targets = map(file_lines, arguments.files)
    if len(sources) != len(targets):
        names = [f"{path} has {len(lines)}" for path, lines in zip(arguments.files, (sources, targets), strict=True)]
        raise UserError(f"{' lines, '.join(names)}: pairs must match line by line")
    return list(zip(sources, targets, strict=True))


def _columns(lines: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    """The two columns of each line."""
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise UserError(f"{name}, line {number} has {len(columns)} columns; SOURCE<tab>TARGET is needed")
        yield columns[0], columns[1]

"""Translate lines: arguments, a file, or standard input.

One line out for each line in; an empty line stays empty. With --n-best N, the N best translations of each line, best
first, as tab-separated rank, score and text. With --attention, below each translation, indented, its words, each with
the source word that it looked at most and the share of its attention that went there, tab-separated.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nmt.commands.lines import blocks, file_lines, standard_input
from nmt.commands.model_choice import add_ensemble_option, add_model_options, load_chosen
from nmt.commands.numbers import beam_size
from nmt.errors import UserError
from nmt.translation import Hypothesis, Translation
from nmt.word_view import word_view

if TYPE_CHECKING:
    from nmt.bundle import Languages

    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "translate",
        help="translate lines with a trained model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("lines", nargs="*", metavar="LINE", help="what to translate (default: standard input)")
    parser.add_argument("--file", type=Path, metavar="F", help="translate the lines of this file")
    parser.add_argument("--beam", type=beam_size, metavar="K", help="beam size; 1 is greedy search")
    parser.add_argument("--n-best", type=beam_size, metavar="N", help="show the N best translations, with scores")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="make every translation begin like this")
    parser.add_argument("--attention", action="store_true", help="show which source word each word looked at most")
    add_model_options(parser)
    add_ensemble_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Translate and print."""
    lines = _lines(arguments)
    translator = load_chosen(arguments)
    if arguments.attention and not translator.has_attention:
        raise UserError("this model has no attention to show; choose another with --variant or --model")
    languages = translator.bundle.config.languages
    for block in blocks(lines):
        translations = translator.translate(
            block,
            beam_size=arguments.beam,
            n_best=arguments.n_best or 1,
            prefixes=[arguments.prefix] * len(block),
        )
        for translation in translations:
            for line in _output(translation, arguments.n_best is not None, arguments.attention, languages):
                print(line)
        print(end="", flush=True)
    return 0


def word_links(
    translation: Translation, hypothesis: Hypothesis, languages: "Languages"
) -> list[tuple[str, str, float]]:
    """Each word of a hypothesis, the source word that it looked at most, and the share of attention that went there."""
    view = word_view(translation, hypothesis, languages)
    if view.weights is None:
        return []
    looked_at = view.weights.argmax(axis=1)
    return [
        (word, view.source[i], float(row[i])) for word, i, row in zip(view.target, looked_at, view.weights, strict=True)
    ]


def _lines(arguments: argparse.Namespace) -> Iterable[str]:
    if arguments.lines and arguments.file:
        raise UserError("give the lines themselves or --file, not both")
    if arguments.lines:
        return list(arguments.lines)
    return file_lines(arguments.file) if arguments.file else standard_input()


def _output(translation: Translation, ranked: bool, with_attention: bool, languages: "Languages") -> Iterable[str]:
    """What is printed for one line of input."""
    for rank, hypothesis in enumerate(translation.hypotheses, start=1):
        yield f"{rank}\t{hypothesis.score:.4f}\t{hypothesis.text}" if ranked else hypothesis.text
        if with_attention:
            for word, source_word, weight in word_links(translation, hypothesis, languages):
                yield f"    {word}\t{source_word}\t{weight:.2f}"

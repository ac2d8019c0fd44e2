"""Word links of given translations, held against hand-made ones.

The source and the target are files of words, a space between them, line by line, cut in whatever way. The gold file has
`i-j` for a sure and `i-j-P` for a possible link, words counted from 0. The model is made to write the target. Printed
is a table of precision, recall and alignment error rate with its bootstrap interval, of all links and of those between
words that the model knows (that are one piece of its vocabulary). With --reverse, a model of the other direction, the
links of both are also intersected and grown (grow-diag).
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt import alignment, markdown, readings
from nmt.commands.lines import file_lines
from nmt.commands.model_choice import add_model_options, load_chosen
from nmt.config import load_params
from nmt.errors import UserError
from nmt.gold import Gold, Links, parse_gold
from nmt.readings import INFLUENCES, Pair
from nmt.scoring import Bootstrap, bootstrap_of_scores
from nmt.segmented import known, write
from nmt.translator import Translator

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Words = Sequence[Sequence[str]]


def register(subparsers: "_Subparsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser(
        "align",
        help="word links of given translations, held against hand-made ones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, meaning in (("source", "source words"), ("target", "target words"), ("gold", "hand-made links")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=f"{meaning}, line by line")
    parser.add_argument("--reverse", type=Path, metavar="FOLDER", help="the bundle of a model of the other direction")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Align, compare and print."""
    sources, targets = (_words(path) for path in (arguments.source, arguments.target))
    gold = read_links(arguments.gold, sources, targets)
    params = load_params()
    bootstrap = bootstrap_of_scores(params)
    threshold = params.analyze_attention.link_threshold
    pairs = read_pairs(load_chosen(arguments), sources, targets)
    links = readings.read_links(pairs, threshold)
    if arguments.reverse:
        backward = Translator.load(arguments.reverse, device=arguments.device, threads=params.runtime.threads)
        links |= symmetrised(links, readings.read_links(read_pairs(backward, targets, sources), threshold))
    print(_table(pairs, links, gold, bootstrap))
    return 0


def _words(path: Path) -> list[list[str]]:
    return [line.split() for line in file_lines(path)]


def read_links(path: Path, sources: Words, targets: Words) -> list[Gold]:
    """The hand-made links of each pair; each must be between words that are there."""
    lines = file_lines(path)
    if not len(lines) == len(sources) == len(targets):
        raise UserError(
            f"{path} has {len(lines)} lines, the sources {len(sources)}, the targets {len(targets)}: "
            "they must match line by line"
        )
    if not lines:
        raise UserError(f"{path} holds no line")
    gold = []
    for number, (line, source, target) in enumerate(zip(lines, sources, targets, strict=True), start=1):
        try:
            links = parse_gold(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if any(i >= len(source) or j >= len(target) for i, j in links.possible):
            raise UserError(f"{path}, line {number} links words beyond the {len(source)} and {len(target)} there are")
        gold.append(links)
    return gold


def read_pairs(translator: Translator, sources: Words, targets: Words) -> list[Pair]:
    """What a model says of each pair, between the words given."""
    config = translator.bundle.config
    read = list(map(write, sources, repeat(config.languages.source), repeat(config.unicode.source)))
    written = list(map(write, targets, repeat(config.languages.target), repeat(config.unicode.target)))
    forced = translator.score([line.text for line in read], [line.text for line in written])
    left = [line.sentence(one.source_pieces) for line, one in zip(read, forced, strict=True)]
    right = [line.sentence(one.pieces) for line, one in zip(written, forced, strict=True)]
    influences = translator.influence(
        [one.source_pieces for one in forced],
        [one.pieces for one in forced],
        [sentence.shares[:, :-1] for sentence in left],
    )
    by_name = [{name: getattr(one, name) for name in INFLUENCES} for one in influences]
    return list(map(Pair, left, right, [one.attention for one in forced], by_name))


def symmetrised(
    forward: Mapping[str, Sequence[Links]], backward: Mapping[str, Sequence[Links]]
) -> dict[str, list[Links]]:
    """For each reading that both models have: the reverse links, the intersection, and that grown."""
    found: dict[str, list[Links]] = {}
    for name in forward:
        if name not in backward or name == "diagonal":
            continue
        turned = [alignment.turned(links) for links in backward[name]]
        found[f"{name}, reverse"] = turned
        found[f"{name}, intersection"] = list(map(alignment.intersection, forward[name], turned))
        found[f"{name}, grow-diag"] = list(map(alignment.grow_diag, forward[name], turned))
    return found


def _table(
    pairs: Sequence[Pair], links: Mapping[str, Sequence[Links]], gold: Sequence[Gold], bootstrap: Bootstrap
) -> str:
    """Each reading's quality: of all links, and of those between words that the model knows."""
    allowed = [_known_pairs(pair) for pair in pairs]
    inside = [Gold(one.sure & there, one.possible & there) for one, there in zip(gold, allowed, strict=True)]
    shapes = [(len(pair.target.words), len(pair.source.words)) for pair in pairs]
    rows = [_cells(readings.row("uniform", alignment.random_link_counts(shapes, gold), bootstrap), None)]
    for name, found in links.items():
        known_links = [ours & there for ours, there in zip(found, allowed, strict=True)]
        rows.append(
            _cells(
                readings.row(name, alignment.link_counts(found, gold), bootstrap),
                readings.row(name, alignment.link_counts(known_links, inside), bootstrap),
            )
        )
    sure = [sum(len(one.sure) for one in several) for several in (gold, inside)]
    said = f"{len(gold)} pairs, {sure[0]} sure links, {sure[1]} of them between words that the model knows"
    return "\n\n".join([markdown.table(["", "precision", "recall", "AER", "AER of known words"], rows), said])


def _known_pairs(pair: Pair) -> Links:
    sources, targets = ([i for i, there in enumerate(known(side)) if there] for side in (pair.source, pair.target))
    return {(i, j) for i in sources for j in targets}


def _cells(everything: Mapping[str, Any], of_known: Mapping[str, Any] | None) -> list[str]:
    def rate(row: Mapping[str, Any] | None) -> str:
        if row is None or row["aer"] is None:
            return ""
        return f"{row['aer']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

    shares = ["" if everything[key] is None else f"{everything[key]:.3f}" for key in ("precision", "recall")]
    return [everything["method"], *shares, rate(everything), rate(of_known)]

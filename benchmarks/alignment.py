"""Alignment error rates of a statistical aligner beside those of the models, on hand-made links.

    python benchmarks/alignment.py --aligner VENV/bin/eflomal-align
    python benchmarks/alignment.py --aligner VENV/bin/eflomal-align --source FILE --target FILE --gold FILE

eflomal (Östling & Tiedemann 2016; `pip install eflomal` into an environment of its own: it is under the GPL, and no
part of this project needs it) aligns the training pairs and the labelled ones together, in the words that the project
cuts, case-folded. It draws its samples anew each time and takes no seed, so it runs several times: printed are means
and, after the sign, deviations over the runs; intervals are over sentences, of the runs' mean. Without files of words
the links are those of the corpus in data/gold, and the models' rows are those of reports/attention.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmt import alignment, paths
from nmt.commands.align import read_links
from nmt.config import Params, load_params
from nmt.files import read_json, read_json_lines, read_lines, write_csv, write_lines
from nmt.gold import Gold, Links, Side, parse_gold, read_gold, word_links
from nmt.scoring import Bootstrap, rounded
from nmt.words import Sentence, share_out, word_spans

Words = list[list[str]]
MEASURES = ("precision", "recall", "aer")


def cut(text: str, language: str) -> Sentence:
    """A text and its words; no piece belongs to any."""
    spans = word_spans(text, language)
    return Sentence(text, [text[begin:end] for begin, end in spans], spans, share_out(["</s>"], []).shares)


def labelled_pairs(params: Params) -> tuple[Words, Words, list[Gold]]:
    """The test pairs with hand-made links, as words, and the links between these."""
    links = read_gold(paths.gold_links(params.corpus.name))
    sides = [read_lines(paths.prepared_text("test", side)) for side in paths.SIDES]
    found: tuple[Words, Words, list[Gold]] = ([], [], [])
    languages, forms = (params.corpus.source, params.corpus.target), params.prepare.unicode
    for record, *texts in zip(read_json_lines(paths.prepared_records("test")), *sides, strict=True):
        if record["id"] in links:
            source, target = (cut(text, language) for text, language in zip(texts, languages, strict=True))
            gold = word_links(
                links[record["id"]],
                Side(record["source"], languages[0], forms.source, source),
                Side(record["references"][0], languages[1], forms.target, target),
            )
            for part, value in zip(found, (source.words, target.words, gold), strict=True):
                part.append(value)  # type: ignore[arg-type]
    return found


def given_pairs(arguments: argparse.Namespace) -> tuple[Words, Words, list[Gold]]:
    """Those of files of words."""
    sources, targets = ([line.split() for line in read_lines(path)] for path in (arguments.source, arguments.target))
    return sources, targets, read_links(arguments.gold, sources, targets)


def align_once(aligner: Path, sources: Words, targets: Words, last: int) -> list[list[Links]]:
    """One run over all pairs: for each of the last ones the links forward and backward."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, lines in (("source", sources), ("target", targets)):
            write_lines(folder / side, (" ".join(words).casefold() for words in lines))
        command = [aligner, "-s", "source", "-t", "target", "-f", "forward", "-r", "backward"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = [read_lines(folder / direction)[-last:] for direction in ("forward", "backward")]
        return [[parse_gold(line).sure for line in direction] for direction in lines]


def readings(forward: Sequence[Links], backward: Sequence[Links]) -> dict[str, list[Links]]:
    """The links of both directions, and what is made of the two."""
    return {
        "forward": list(forward),
        "reverse": list(backward),
        "intersection": list(map(alignment.intersection, forward, backward)),
        "grow-diag": list(map(alignment.grow_diag, forward, backward)),
    }


def row(method: str, counts: Sequence[np.ndarray], bootstrap: Bootstrap) -> dict[str, Any]:
    """Means and deviations over runs; the interval is that of the runs' mean AER over sentences."""
    runs = [alignment.quality(one.sum(axis=0)) for one in counts]
    means = {key: float(np.mean([run[key] for run in runs])) for key in MEASURES}
    samples = [[alignment.quality(totals)["aer"] for totals in bootstrap.totals(one)] for one in counts]
    low, high = bootstrap.interval(np.mean(np.array(samples, dtype=np.float64), axis=0))
    deviation = float(np.std([run["aer"] for run in runs], ddof=1)) if len(runs) > 1 else None
    return {"method": method, "runs": len(runs), **means, "deviation": deviation, "low": low, "high": high}


def model_rows(params: Params) -> list[dict[str, Any]]:
    """The rows of every model's report; the two baselines once."""
    rows: dict[str, dict[str, Any]] = {}
    for variant in params.variants:
        for seed in params.seeds:
            for one in read_json(paths.attention_report(variant, seed) / "summary.json")["alignment"]["rows"]:
                name = one["method"]
                name = name if name in ("uniform", "diagonal") else f"{variant}-{seed}, {name}"
                rows.setdefault(name, {**one, "method": name, "runs": 1, "deviation": None})
    return [
        {key: one[key] for key in ("method", "runs", *MEASURES, "deviation", "low", "high")} for one in rows.values()
    ]


def main() -> None:
    """Align, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--aligner", type=Path, required=True, metavar="EFLOMAL-ALIGN")
    parser.add_argument("--runs", type=int, default=5)
    for name in ("source", "target", "gold"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    params = load_params()
    evaluate = params.evaluate
    bootstrap = Bootstrap(evaluate.bootstrap_samples, evaluate.confidence, evaluate.bootstrap_seed)
    sources, targets, gold = given_pairs(arguments) if arguments.gold else labelled_pairs(params)
    languages = (params.corpus.source, params.corpus.target)
    train = [
        [cut(line, language).words for line in read_lines(paths.prepared_text("train", side))]
        for side, language in zip(paths.SIDES, languages, strict=True)
    ]
    counts: dict[str, list[np.ndarray]] = {}
    for number in range(arguments.runs):
        print(f"run {number + 1} of {arguments.runs}", file=sys.stderr)
        both = align_once(arguments.aligner.resolve(), train[0] + sources, train[1] + targets, len(gold))
        for name, links in readings(*both).items():
            counts.setdefault(f"eflomal, {name}", []).append(alignment.link_counts(links, gold))
    rows = [row(name, several, bootstrap) for name, several in counts.items()]
    rows += [] if arguments.gold else model_rows(params)
    if arguments.csv:
        write_csv(arguments.csv, rounded(rows))
    print("| | precision | recall | AER |\n|:--|--:|--:|--:|")
    for one in rows:
        deviation = f" ± {one['deviation']:.3f}" if one["deviation"] is not None else ""
        rates = " | ".join(f"{one[key]:.3f}" for key in MEASURES)
        print(f"| {one['method']} | {rates}{deviation} [{one['low']:.3f}, {one['high']:.3f}] |")


if __name__ == "__main__":
    main()

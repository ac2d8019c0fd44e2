"""Set all variants and seeds side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmt import comparison, frequency, paths, plots, reporting, runs, testset, tracking
from nmt.config import load_params
from nmt.files import each_line, fresh_folder, write_csv, write_json, write_text
from nmt.runs import Runs
from nmt.scoring import rounded
from nmt.stages.runner import run


def main() -> None:
    """Write the comparison: numbers, text, long tables for `dvc plots`, figures.

    Reads: data/prepared/{test.jsonl,train.target.txt}; of each variant and seed of params.yaml
        reports/{training,translations,scores,attention}/<variant>/<seed>, of each of its ensembles
        reports/{translations,scores}/<variant>/ensemble.
    Writes: reports/comparison.
    Params: corpus, variants, seeds, ensembles, compare, evaluate.
    """
    params = load_params()
    sentences = testset.read_sentences()
    reported = runs.read_runs(params, sentences)
    together = runs.read_ensembles(params, sentences, reported)
    words = frequency.word_counts(each_line(paths.prepared_text("train", "target")), params.corpus.target)
    compared = rounded(comparison.compare(params, sentences, reported, together, words))
    with fresh_folder(paths.COMPARISON) as folder:
        write_json(folder / "comparison.json", compared)
        write_text(folder / "comparison.md", reporting.markdown(compared))
        write_csv(folder / "curves.csv", runs.curves(reported))
        write_csv(folder / "by_length.csv", runs.by_length(reported))
        write_csv(folder / "joined.csv", runs.joined(reported))
        write_csv(folder / "by_frequency.csv", runs.by_frequency(reported))
        write_csv(folder / "ablations.csv", runs.ablations(reported), runs.ABLATIONS)
        write_csv(folder / "alignment.csv", runs.alignment(reported), runs.ALIGNMENT)
        draw(folder, compared, reported)
    tracking.publish_comparison()


def draw(folder: Path, compared: Mapping[str, Any], reported: Runs) -> None:
    """Draw the figures that `comparison.md` shows."""
    variants = compared["variants"]
    lines = [
        plots.Series(
            name=one.name if len(several) > 1 else name,
            x=[float(row["epoch"]) for row in one.history],
            y=[float(row["dev_loss"]) for row in one.history],
        )
        for name, several in reported.items()
        for one in several
    ]
    plots.curves(folder / "curves.png", lines, "Dev loss", "epoch", "nats per token")
    classes = {name: [with_bars(row, "bleu_") for row in variant["by_length"]] for name, variant in variants.items()}
    plots.bleu_by_length(folder / "by_length.png", classes, "BLEU by source length", reporting.unit(compared))
    levels = {name: [with_bars(row, "") for row in variant["joined"]] for name, variant in variants.items()}
    gaps = {name: test["gap"]["gaps"] for name, test in compared["tests"].items() if test["gap"]}
    if gaps:
        plots.joined(folder / "joined.png", levels, gaps, "BLEU of joined sentences", compared["baseline"])
    draw_words(folder, compared)


def draw_words(folder: Path, compared: Mapping[str, Any]) -> None:
    """Draw recall by frequency and, where there are any, ablations and alignment error rates."""
    variants = compared["variants"]
    recall = {
        name: {
            runs.extent(row["low"], row["high"]): bar(row["recall"]) for row in variant["by_frequency"] if row["recall"]
        }
        for name, variant in variants.items()
    }
    title = "Reference words recalled, by their number in the training text"
    plots.dots(folder / "by_frequency.png", recall, title, "share of the words")
    ablated = {
        name: {"as trained": bar(variant["scores"]["bleu"])}
        | {key: bar(one) for key, one in variant["ablations"].items()}
        for name, variant in variants.items()
        if variant["ablations"]
    }
    if ablated:
        plots.dots(folder / "ablations.png", ablated, "BLEU with the attention disturbed", "BLEU")
    aligned = {
        name: {row["method"]: bar(row["aer"]) for row in variant["alignment"] if row["aer"]}
        for name, variant in variants.items()
        if variant["alignment"]
    }
    if aligned:
        plots.dots(folder / "alignment.png", aligned, "Word links against labelled ones", "alignment error rate")


def bar(measure: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return a mean and the ends of its bar."""
    deviation = measure["deviation"] or 0.0
    mean = measure["mean"]
    return mean, measure.get("low", mean - deviation), measure.get("high", mean + deviation)


def with_bars(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return a row with its BLEU and the ends of its bar: a bootstrap interval or, over seeds, one deviation."""
    bleu, low, high = bar(row["bleu"])
    numbers = {key: value for key, value in row.items() if key not in ("bleu", "chrf")}
    return numbers | {"bleu": bleu, f"{prefix}low": low, f"{prefix}high": high}


if __name__ == "__main__":
    run(main)

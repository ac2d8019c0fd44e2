"""Set all variants and seeds side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmt import comparison, paths, plots, reporting, runs, testset, tracking
from nmt.config import load_params
from nmt.files import fresh_folder, write_csv, write_json, write_text
from nmt.runs import Runs
from nmt.scoring import rounded
from nmt.stages.runner import run


def main() -> None:
    """Write the comparison: numbers, text, long tables for `dvc plots`, figures.

    Reads: data/prepared/test.jsonl; reports/{training,translations,scores,attention}/<variant>/<seed> of params.yaml.
    Writes: reports/comparison.
    Params: corpus, variants, seeds, compare, evaluate.
    """
    params = load_params()
    sentences = testset.read_sentences()
    reported = runs.read_runs(params, sentences)
    compared = rounded(comparison.compare(params, sentences, reported))
    with fresh_folder(paths.COMPARISON) as folder:
        write_json(folder / "comparison.json", compared)
        write_text(folder / "comparison.md", reporting.markdown(compared))
        write_csv(folder / "curves.csv", runs.curves(reported))
        write_csv(folder / "by_length.csv", runs.by_length(reported))
        write_csv(folder / "joined.csv", runs.joined(reported))
        draw(folder, compared, reported)
    tracking.publish_comparison()
    for one in (one for several in reported.values() for one in several):
        tracking.publish_model(one.variant, one.seed)  # only now, when the model's stages have ended, is dvc.lock whole


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


def with_bars(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return a row with its BLEU and the ends of its bar: a bootstrap interval or, over seeds, one deviation."""
    bleu = row["bleu"]
    deviation = bleu["deviation"] or 0.0
    bars = {"low": bleu.get("low", bleu["mean"] - deviation), "high": bleu.get("high", bleu["mean"] + deviation)}
    numbers = {key: value for key, value in row.items() if key not in ("bleu", "chrf")}
    return numbers | {"bleu": bleu["mean"]} | {f"{prefix}{key}": value for key, value in bars.items()}


if __name__ == "__main__":
    run(main)

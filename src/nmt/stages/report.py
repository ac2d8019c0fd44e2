"""Put the whole comparison, and an explorer of the test set, into one page that opens from disk."""

from typing import Any

from nmt import leaderboard, paths, records, study_table, testset, tracking
from nmt.config import load_params
from nmt.files import read_csv, read_json, read_lines, read_text, write_text
from nmt.html_report import explorer, page
from nmt.html_report.explorer import Shown
from nmt.html_report.weave import weave
from nmt.identity import content_hash
from nmt.lockfile import file_md5
from nmt.stages.runner import run
from nmt.testset import present


def main() -> None:
    """Write the page; its explorer shows the models of the first seed.

    Reads: data/prepared/test.jsonl, reports/comparison, reports/corpus.json; of each variant's first seed
    reports/{attention,scores,translations}/<variant>/<seed>; reports/experiments/{leaderboard,ingredients/table}.csv.
    Writes: reports/report.html.
    Params: report.
    """
    settings = load_params().report
    compared = read_json(present(paths.COMPARISON / "comparison.json", "compare"))
    seed = compared["seeds"][0]
    variants = compared["variants"]
    shown = [read_shown(name, variant["attention"], seed) for name, variant in variants.items()]
    sentences = testset.read_sentences()
    contents = page.Contents(
        compared=compared,
        compared_sha256=content_hash(paths.COMPARISON),
        curves=read_csv(paths.COMPARISON / "curves.csv", ("run", "variant", "epoch", "dev_loss")),
        attention={
            name: records.read_one(paths.attention_report(name, seed) / "summary.json", records.Analysis)
            for name in variants
        },
        scores={name: records.read_one(paths.scores(name, seed), records.Scores) for name in variants},
        corpus=read_json(paths.CORPUS_REPORT),
        explorer=explorer.explorer(sentences, shown, compared["corpus"]["source"], settings.sentences),
        study=read_study(),
        experiments=read_experiments(),
        weave=weave(shown, settings.sentences),
    )
    write_text(paths.PAGE, page.render(contents))
    tracking.publish_comparison()


def read_shown(variant: str, attention: str, seed: int) -> Shown:
    """Read one model's translations and what lies behind their words."""
    report, analysis = paths.attention_report(variant, seed), paths.stage("analyze_attention", variant, seed)
    hypotheses = present(paths.translations(variant, seed) / "hypotheses.txt", paths.stage("translate", variant, seed))
    words, suspects = (present(report / name, analysis) for name in ("words.jsonl", "suspects.csv"))
    lost = {row["id"] for row in read_csv(suspects, ("id", "both_fail")) if row["both_fail"]}
    return Shown(variant, attention, read_lines(hypotheses), records.read_each(words, records.Words), lost)


def read_study() -> list[dict[str, Any]]:
    """Read what `nmt study` found about the ingredients of the recipe, as far as it was on the present test set."""
    own = file_md5(paths.prepared_records("test"))
    lines = study_table.from_csv(read_csv(paths.study_table(paths.INGREDIENTS), study_table.COLUMNS))
    return [line for line in lines if line["test_set"] == own]


def read_experiments() -> list[dict[str, Any]]:
    """Read the rows of the saved leaderboard that were measured on the present test set."""
    own = file_md5(paths.prepared_records("test"))
    return [row for row in leaderboard.from_csv(read_text(paths.LEADERBOARD)) if row["test_set"] == own]


if __name__ == "__main__":
    run(main)

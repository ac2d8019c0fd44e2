"""The page's tables: rows of cells, each a value with what is known about its uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmt import leaderboard, reporting, study_table
from nmt.markdown import Format, listing, points, whole

Mapped = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A number as text, and its interval or deviation."""

    value: str
    spread: str = ""


@dataclass(frozen=True)
class Row:
    """A named line of a table; what its name means may stand beside it."""

    name: str
    cells: Sequence[Cell]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a name for each column but the first."""

    columns: Sequence[str]
    rows: Sequence[Row]


def measured(measure: Mapped, form: Format) -> Cell:
    """Return a mean over seeds with its deviation, or a single run's score with its interval."""
    value = form(measure["mean"])
    if measure["deviation"]:
        return Cell(value, f"± {form(measure['deviation'])}")
    return Cell(value, between(measure, form) if "low" in measure else "")


def between(measure: Mapped, form: Format) -> str:
    """Return an interval."""
    return f"{form(measure['low'])} to {form(measure['high'])}".replace("-", "−")


def share(value: float) -> str:
    """Return a share in percent."""
    return f"{value:.1%}"


def thousandths(value: float) -> str:
    """Return a number with three digits after the point."""
    return f"{value:.3f}".replace("-", "−")


def results(compared: Mapped) -> Table:
    """Return the scores of all variants, a column each."""
    unit = reporting.unit(compared, "target")[:-1]
    rows: list[tuple[str, str, str, Format, str]] = [
        ("BLEU", "scores", "bleu", points, ""),
        ("chrF", "scores", "chrf", points, ""),
        ("TER", "scores", "ter", points, "lower is better"),
        ("perplexity per piece", "scores", "perplexity_per_token", points, "lower is better"),
        (f"perplexity per {unit}", "scores", "perplexity_per_word", points, "lower is better"),
        ("exact matches", "scores", "exact_match", share, ""),
        ("parameters", "training", "parameters", whole, ""),
        ("updates", "training", "updates", whole, ""),
        ("dev loss", "training", "dev_loss", thousandths, "nats per piece"),
    ]
    variants = compared["variants"]
    return Table(
        list(variants),
        [
            Row(name, [measured(variant[section][key], form) for variant in variants.values()], note)
            for name, section, key, form, note in rows
        ],
    )


def ensembles(compared: Mapped) -> Table | None:
    """Return the scores of each ensemble, below those of the models that it is made of; None where there is none."""
    titles = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER", "perplexity_per_token": "perplexity per piece"}
    rows = [
        Row(title, [measured(scores[key], points) for key in titles])
        for name, one in compared.get("ensembles", {}).items()
        for title, scores in (
            *((f"{name}, seed {run['seed']}", reporting.alone(run["scores"])) for run in _runs(compared, name)),
            (reporting.ensemble(name, one), one["scores"]),
        )
    ]
    return Table(list(titles.values()), rows) if rows else None


def _runs(compared: Mapped, name: str) -> Sequence[Mapped]:
    runs: Sequence[Mapped] = compared["variants"][name]["runs"]
    return runs


def by_length(compared: Mapped) -> Table:
    """Return BLEU by source length, a row for each class."""
    return _levels(compared, "by_length", reporting.extent)


def joined(compared: Mapped) -> Table:
    """Return BLEU by the number of sentences in one input."""
    return _levels(compared, "joined", lambda row: str(row["joined"]))


def _levels(compared: Mapped, key: str, name: Any) -> Table:
    variants = compared["variants"]
    levels = zip(*(variant[key] for variant in variants.values()), strict=True)
    return Table(
        list(variants),
        [
            Row(name(level[0]), [measured(one["bleu"], points) for one in level], f"{whole(level[0]['sentences'])}")
            for level in levels
        ],
    )


def by_frequency(reports: Mapping[str, Sequence[Mapped]]) -> Table:
    """Return the share of reference words that were recalled, a row for each class of frequency."""
    classes = zip(*reports.values(), strict=True)
    rows = [Row(frequency(level[0]), [_recalled(one) for one in level], whole(level[0]["words"])) for level in classes]
    return Table(list(reports), rows)


def frequency(row: Mapped) -> str:
    """Return how often the words of a class stand in the training text."""
    if row["high"] is None:
        return f"{row['low']}+"
    return reporting.extent(row)


def _recalled(row: Mapped) -> Cell:
    if row["recall"] is None:
        return Cell("–")
    return Cell(share(row["recall"]), between({end: row[f"recall_{end}"] for end in ("low", "high")}, share))


def curves(rows: Sequence[Mapping[str, str]]) -> Table:
    """Return the dev loss of every run after each epoch."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    epochs = list(dict.fromkeys(row["epoch"] for row in rows))
    losses = {(row["run"], row["epoch"]): thousandths(float(row["dev_loss"])) for row in rows}
    return Table(runs, [Row(epoch, [Cell(losses.get((run, epoch), "")) for run in runs]) for epoch in epochs])


def alignment(reports: Mapping[str, Mapped]) -> Table | None:
    """Return the quality of links against gold ones, the best first; a method that all share stands there once."""
    lines: dict[tuple[str, ...], list[str]] = {}
    found = [(variant, row) for variant, report in reports.items() for row in report["rows"]]
    for variant, row in sorted(found, key=lambda one: 2.0 if one[1]["aer"] is None else one[1]["aer"]):
        numbers = [_share_of_links(row[key]) for key in ("precision", "recall", "aer")]
        spread = between(row, thousandths) if row["low"] is not None else ""
        lines.setdefault((row["method"], *numbers, spread), []).append(variant)
    rows = [
        Row(method, [Cell(precision), Cell(recall), Cell(aer, spread)], _of(variants, reports))
        for (method, precision, recall, aer, spread), variants in lines.items()
    ]
    return Table(["precision", "recall", "AER"], rows) if rows else None


def _share_of_links(value: float | None) -> str:
    return "–" if value is None else thousandths(value)


def _of(variants: Sequence[str], reports: Mapping[str, Mapped]) -> str:
    """Name the variants of a line, unless it is that of all."""
    return "" if len(variants) == len(reports) else listing(variants)


AGREEMENTS = {"tau": "rank correlation", "top": "same word first"}
"""Two ways in which measures of where a word comes from agree: names in `summary.json`, and what they are."""


def influence(reports: Mapping[str, Mapped]) -> Table | None:
    """Return how far attention, erasure and gradient agree on the source words of the hypotheses."""
    measured = {name: report["hypotheses"] for name, report in reports.items() if report["hypotheses"]}
    pairs = dict.fromkeys(pair for report in measured.values() for pair in report)
    rows = [
        Row(pair.replace("_", " and "), [_agreement(report.get(pair), key) for report in measured.values()], meaning)
        for pair in pairs
        for key, meaning in AGREEMENTS.items()
    ]
    return Table(list(measured), rows) if rows else None


def _agreement(entry: Mapped | None, key: str) -> Cell:
    if not entry or entry[key] is None:
        return Cell("–")
    form = share if key == "top" else _hundredths
    return Cell(form(entry[key]), between({end: entry[f"{key}_{end}"] for end in ("low", "high")}, form))


ABLATIONS = {
    "uniform": "every source position weighs the same",
    "shifted": "the weights fall one position too late",
    "frozen": "the encoder's last state at every step",
}
"""What is done to attention weights, by its name in the scores."""


def ablations(scores: Mapping[str, Mapped]) -> Table | None:
    """Return BLEU of models whose attention weights were tampered with while they translated, beside the others."""
    tampered = {name: report["ablations"] for name, report in scores.items() if report.get("ablations")}
    if not tampered:
        return None
    kinds = dict.fromkeys(kind for report in tampered.values() for kind in report)
    untouched = Row("as trained", [_scored(scores[name]["bleu"], "score") for name in tampered])
    rows = [
        Row(kind, [_scored(report.get(kind), "bleu") for report in tampered.values()], ABLATIONS.get(kind, ""))
        for kind in kinds
    ]
    return Table(list(tampered), [untouched, *rows])


def _scored(score: Mapped | None, key: str) -> Cell:
    return Cell(points(score[key]), between(score, points)) if score else Cell("–")


STATISTICS = {
    "entropy_normalised": "how spread out a word's attention weights are; 0: one source word, 1: all alike",
    "max_weight": "the largest attention weight of a word",
    "eos_mass": "share that rests on the end of the source",
    "punctuation_mass": "share that rests on marks and symbols",
    "never_looked_at": "share of source words that no target word gives a weight of note",
    "monotonicity": "1: in the source's order, 0: in none",
    "backward_jumps": "share of steps in which the attention goes back in the source",
}
"""Names in `summary.json` that the page shows, and what they mean."""


def statistics(report: Mapped) -> Table:
    """Return what one model's attention is like, beside models that know nothing."""
    columns = report["hypotheses"]
    rows = [
        Row(key.replace("_", " "), [_number(column[key]) for column in columns.values()], meaning)
        for key, meaning in STATISTICS.items()
    ]
    return Table(list(columns), rows)


def _number(value: float | None) -> Cell:
    return Cell("–" if value is None else _hundredths(value))


def _hundredths(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def study(lines: Sequence[Mapped], variants: Sequence[str]) -> Table:
    """Return what each step of a recipe came to, a column for each of the variants."""
    steps = {line["step"]: line["adds"] for line in lines}
    cells = {(line["step"], line["variant"]): measured(study_table.measure(line), points) for line in lines}
    rows = [
        Row(f"{number}. {step}", [cells.get((step, variant), Cell("–")) for variant in variants], adds)
        for number, (step, adds) in enumerate(steps.items(), start=1)
    ]
    return Table(variants, rows)


def experiments(rows: Sequence[Mapped]) -> Table | None:
    """Return the leaderboard, a line for each result; None where nothing but one state of the project is in it."""
    metrics = {**leaderboard.METRICS, leaderboard.PERPLEXITY: "perplexity"}
    lines = []
    for row in rows:
        intervals = {
            metric: {"low": row[f"{metric}_low"], "high": row[f"{metric}_high"]} for metric in leaderboard.METRICS
        }
        cells = [
            Cell(points(row[metric]), between(intervals[metric], points) if metric in intervals else "")
            for metric in metrics
        ]
        lines.append(Row(f"{row['experiment']}: {row['variant']}, seed {row['seed']}", cells, row["parameters"]))
    return Table(list(metrics.values()), lines) if len({row["experiment"] for row in rows}) > 1 else None

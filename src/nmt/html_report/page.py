"""The page: a template of Jinja's, filled with tables, charts and the explorer's data, with style and script inside."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nmt import reporting, study_table
from nmt.html_report import charts, tables
from nmt.html_report.charts import Line
from nmt.html_report.tables import Table
from nmt.html_report.weave import Weave
from nmt.markdown import listing

_STYLE, _SCRIPT = "page.css", "explorer.js"
_TATOEBA = "https://tatoeba.org/sentences/show/"
_BESIDE = 0.24
"""How far models stand apart at one step of a study, in steps."""

Mapped = Mapping[str, Any]


@dataclass(frozen=True)
class Contents:
    """All that the page is made of, as the stages before wrote it."""

    compared: Mapped
    """`comparison.json`."""
    compared_sha256: str
    """Of the folder of the comparison, so that everyone can tell which results a page shows."""
    curves: Sequence[Mapping[str, str]]
    """The rows of `curves.csv`."""
    attention: Mapping[str, Mapped]
    """`summary.json` of each variant's first seed."""
    scores: Mapping[str, Mapped]
    """The scores of each variant's first seed."""
    corpus: Mapped
    """`corpus.json`: licence and attribution."""
    explorer: Mapped
    """What `explorer.explorer` returns."""
    experiments: Sequence[Mapped]
    """The rows of the leaderboard that were measured on this test set."""
    study: Sequence[Mapped]
    """The lines of the study of ingredients that were measured on this test set."""
    weave: Weave | None
    """The picture at the top, if a sentence lends itself to it."""


@dataclass(frozen=True)
class Chart:
    """A drawing, what it shows, and the numbers behind it."""

    title: str
    note: str
    svg: Markup
    columns: Sequence[str]
    """Names of its lines, each with a colour of its own."""
    head: str
    """Of the table's first column."""
    table: Table = field(repr=False)


def render(contents: Contents) -> str:
    """Return the page as HTML: the same contents give the same text."""
    environment = Environment(
        loader=PackageLoader("nmt.html_report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["strong"] = strong
    style, script = ((resources.files(__package__) / name).read_text("utf-8") for name in (_STYLE, _SCRIPT))
    return environment.get_template("page.html").render(
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        data=embedded(explorer_data(contents)),
        **sections(contents),
    )


def sections(contents: Contents) -> dict[str, Any]:
    """Return what the template names, section by section; None where there is nothing to show."""
    compared = contents.compared
    corpus = compared["corpus"]
    aligned = {name: report["alignment"] for name, report in contents.attention.items() if report.get("alignment")}
    influences = {name: report["influence"] for name, report in contents.attention.items() if report.get("influence")}
    return {
        "compared": compared,
        "compared_sha256": contents.compared_sha256,
        "names": listing(list(compared["variants"])),
        "languages": [reporting.language(corpus[side]) for side in ("source", "target")],
        "shown": len(contents.explorer["sentences"]),
        "weave": contents.weave,
        "verdicts": reporting.verdicts(compared),
        "uncertainty": uncertainty(compared),
        "results": tables.results(compared),
        "ensembles": tables.ensembles(compared),
        "learning": learning(contents),
        "charts": [chart for chart in (by_length(compared), joined(compared), by_frequency(contents)) if chart],
        "labelled": next(iter(aligned.values()))["sentences"] if aligned else 0,
        "alignment": tables.alignment(aligned),
        "statistics": statistics(contents),
        "influence": tables.influence(influences),
        "ablations": tables.ablations(contents.scores),
        "study": ingredients(contents),
        "experiments": tables.experiments(contents.experiments),
        "corpus": contents.corpus,
    }


def explorer_data(contents: Contents) -> dict[str, Any]:
    """Return what the script reads: the sentences, and how to speak of them."""
    compared = contents.compared
    return {
        "source": compared["corpus"]["source"],
        "target": compared["corpus"]["target"],
        "unit": reporting.unit(compared),
        "baseline": compared["baseline"],
        "credit": _TATOEBA if compared["corpus"]["name"].startswith("tatoeba") else None,
        **contents.explorer,
    }


def uncertainty(compared: Mapped) -> str:
    """Return what the small numbers under the scores mean."""
    seeds = compared["seeds"]
    if len(seeds) > 1:
        return f"Means over {len(seeds)} seeds; below them, standard deviations."
    return f"Below a score: its {compared['confidence']:.0%} bootstrap interval over the test sentences; one seed."


def learning(contents: Contents) -> Chart:
    """Return the dev loss of every run; the seeds of a variant share its colour."""
    variants = list(contents.compared["variants"])
    runs: dict[str, list[Mapping[str, str]]] = {}
    for row in contents.curves:
        runs.setdefault(row["run"], []).append(row)
    lines = [
        Line(
            name=run,
            colour=variants.index(rows[0]["variant"]),
            x=[float(row["epoch"]) for row in rows],
            y=[float(row["dev_loss"]) for row in rows],
        )
        for run, rows in runs.items()
    ]
    svg = charts.chart("learning", lines, "epoch", None, from_zero=False)
    note = "Loss on the dev set, in nats per piece, after each epoch."
    return Chart("Learning", note, Markup(svg), variants, "epoch", tables.curves(contents.curves))


def by_length(compared: Mapped) -> Chart:
    """Return BLEU over equally large classes of source length."""
    unit = reporting.unit(compared)
    classes = {name: variant["by_length"] for name, variant in compared["variants"].items()}
    ticks = {float(i): reporting.extent(row) for i, row in enumerate(next(iter(classes.values())))}
    svg = charts.chart("by-length", banded(classes), f"source length in {unit}", ticks, from_zero=True)
    note = f"BLEU of equally many test sentences each, by the {unit} of the source."
    return Chart("Long sentences", note, Markup(svg), list(classes), unit, tables.by_length(compared))


def joined(compared: Mapped) -> Chart | None:
    """Return BLEU over the number of sentences in one input; None where none were joined."""
    levels = {name: variant["joined"] for name, variant in compared["variants"].items()}
    sizes = [row["joined"] for row in next(iter(levels.values()))]
    if len(sizes) < 2:
        return None
    ticks = {float(i): str(size) for i, size in enumerate(sizes)}
    svg = charts.chart("joined", banded(levels), "sentences in one input", ticks, from_zero=True)
    note = "BLEU when consecutive test sentences are joined into one input."
    return Chart("Several sentences at once", note, Markup(svg), list(levels), "sentences", tables.joined(compared))


def by_frequency(contents: Contents) -> Chart | None:
    """Return the share of reference words recalled over their frequency in training; None where it was not measured."""
    reports = {name: report["by_frequency"] for name, report in contents.scores.items() if report.get("by_frequency")}
    if not reports:
        return None
    variants = list(contents.compared["variants"])
    ticks = {float(i): tables.frequency(row) for i, row in enumerate(next(iter(reports.values())))}
    lines = [recalled(name, variants.index(name), rows) for name, rows in reports.items()]
    svg = charts.chart("by-frequency", lines, "times that a word stands in the training text", ticks, from_zero=True)
    note = "Percent of the references' words that the translations have, rare ones on the left."
    return Chart("Rare words", note, Markup(svg), list(reports), "times", tables.by_frequency(reports))


def ingredients(contents: Contents) -> Chart | None:
    """Return BLEU after each step of the recipe; None where there is no study of it on this test set."""
    variants = list(contents.compared["variants"])
    lines = [line for line in contents.study if line["variant"] in variants]
    if not lines:
        return None
    places = {step: float(place) for place, step in enumerate(dict.fromkeys(line["step"] for line in lines))}
    drawn = [
        Line(
            name=variant,
            colour=variants.index(variant),
            x=[places[step] + _BESIDE * (variants.index(variant) - (len(variants) - 1) / 2) for step in steps],
            y=[middle for middle, _, _ in steps.values()],
            band=([low for _, low, _ in steps.values()], [high for _, _, high in steps.values()]),
            joined=False,  # a model may have been trained at some steps only
        )
        for variant, steps in study_table.intervals(lines).items()
    ]
    ticks = {place: str(int(place) + 1) for place in places.values()}
    svg = charts.chart("ingredients", drawn, "step of the table", ticks, from_zero=False)
    note = "BLEU after each step of the recipe; one seed with its interval, or several with their standard deviation."
    return Chart("Step by step", note, Markup(svg), variants, "each step adds", tables.study(lines, variants))


def recalled(name: str, colour: int, rows: Sequence[Mapped]) -> Line:
    """Return a line of recall in percent, over the classes that have words."""
    known = [(float(i), row) for i, row in enumerate(rows) if row["recall"] is not None]
    low, high = ([100 * row[key] for _, row in known] for key in ("recall_low", "recall_high"))
    return Line(name, colour, [i for i, _ in known], [100 * row["recall"] for _, row in known], (low, high))


def banded(levels: Mapping[str, Sequence[Mapped]]) -> list[Line]:
    """Return a line of BLEU for each variant, with its interval or, over seeds, its deviation as a band."""
    return [
        Line(
            name=name,
            colour=colour,
            x=[float(i) for i in range(len(rows))],
            y=[row["bleu"]["mean"] for row in rows],
            band=([edge(row["bleu"], "low", -1) for row in rows], [edge(row["bleu"], "high", +1) for row in rows]),
        )
        for colour, (name, rows) in enumerate(levels.items())
    ]


def edge(bleu: Mapped, end: str, sign: int) -> float:
    """Return one end of a band."""
    return float(bleu.get(end, bleu["mean"] + sign * (bleu["deviation"] or 0.0)))


def statistics(contents: Contents) -> dict[str, Table]:
    """Return, for each variant with attention, what it is like."""
    reports = {name: summary.get("attention") for name, summary in contents.attention.items()}
    return {name: tables.statistics(report) for name, report in reports.items() if report}


def strong(text: str) -> Markup:
    """Return text in which `**` stands around what matters, as HTML."""
    parts = [escape(part) for part in text.split("**")]
    return Markup("").join(
        Markup("<strong>{}</strong>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def embedded(data: Mapped) -> Markup:
    """Return JSON that may stand inside a `<script>` element: no text in it can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def policy(style: str, script: str) -> str:
    """Return the page's Content Security Policy: its own style and script, and nothing from anywhere else."""
    allowed = {"style-src": style, "script-src": script}
    sources = [f"{kind} 'sha256-{_base64_sha256(text)}'" for kind, text in allowed.items()]
    return "; ".join(["default-src 'none'", *sources, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def _base64_sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")

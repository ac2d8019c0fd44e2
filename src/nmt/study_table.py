"""The table of a study, told as text and as numbers to draw: lines as `study.table` makes them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nmt import markdown
from nmt.errors import UserError

_NUMBERS = ("bleu", "deviation", "low", "high", "chrf")
COLUMNS = ("step", "adds", "variant", *_NUMBERS, "test_set", "command")
"""What is read here, at least."""


def from_csv(lines: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Lines as they were written, numbers as numbers and what is absent as None."""
    try:
        return [{**line, **{name: float(line[name]) if line[name] else None for name in _NUMBERS}} for line in lines]
    except (KeyError, ValueError) as error:
        raise UserError(f"the table of a study is damaged ({error}); `nmt study` writes it anew") from None


def measure(line: Mapping[str, Any]) -> dict[str, Any]:
    """BLEU with what is known of its uncertainty, as `markdown.measured` takes it."""
    ends = {} if line["low"] is None else {"low": line["low"], "high": line["high"]}
    return {"mean": line["bleu"], "deviation": line["deviation"], **ends}


def intervals(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """BLEU and its ends by variant and step: one seed's interval, or the mean with a deviation to either side."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for line in lines:
        known, mean = measure(line), line["bleu"]
        spread = known["deviation"] or 0.0
        ends = known.get("low", mean - spread), known.get("high", mean + spread)
        found.setdefault(line["variant"], {})[line["step"]] = (mean, *ends)
    return found


def as_markdown(study: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The table for people, and below it the command of each row."""
    variants = list(dict.fromkeys(line["variant"] for line in lines))
    steps = list(dict.fromkeys(line["step"] for line in lines))
    cells = {(line["step"], line["variant"]): markdown.measured(measure(line), markdown.points) for line in lines}
    told = {line["step"]: line for line in lines}
    body = [
        [
            markdown.literal(step),
            *(cells.get((step, variant), "") for variant in variants),
            f"`{told[step]['adds']}`" if told[step]["adds"] else "",
        ]
        for step in steps
    ]
    header = ["each row adds to the one above", *(f"{variant}, BLEU" for variant in variants), "parameters"]
    commands = "\n".join(f"# {step}\n{told[step]['command']}" for step in steps)
    return (
        f"# Study: {markdown.literal(study)}\n\n{markdown.table(header, body)}\n\n"
        "Means over seeds with their standard deviation, or one seed with its bootstrap interval.\n\n"
        f"```\n{commands}\n```\n"
    )

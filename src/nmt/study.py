"""A study: named steps of a recipe, each the one before it and something more, and what each is worth.

`reports/experiments/<study>/study.yaml` holds the steps; `nmt study` trains them and writes the table beside it.
"""

import hashlib
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from nmt import paths
from nmt.config import Section, load_yaml
from nmt.errors import UserError
from nmt.experiments import Trial
from nmt.leaderboard import METRICS, Snapshot, leaves, value_text

_NO_NAME = re.compile(r"[^a-z0-9]+")


class Step(Section):
    """One row, as it stands in the file."""

    name: Annotated[str, Field(min_length=1)]
    variants: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    set: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A step, and the experiment with all that it has from the steps before it."""

    step: Step
    trial: Trial

    @property
    def command(self) -> str:
        """What one types to get this row alone."""
        settings = [word for one in self.trial.overrides for word in ("-S", one)]
        return shlex.join(["dvc", "exp", "run", *settings, *self.trial.targets])


def read(study: str, state: str, ensembles: Sequence[str] = ()) -> list[Row]:
    """The rows of a study. `state` tells the trials of a changed workspace from those of the commit.

    `ensembles` are those of params.yaml, which no step needs: where it has one seed they would be refused.

    Raises:
        UserError: there is no such study, or its file is no list of steps.
    """
    path = paths.study(study)
    if not path.exists():
        known = sorted(one.parent.name for one in path.parent.parent.glob(f"*/{path.name}"))
        raise UserError(f"{path} does not exist; known studies: {', '.join(known) or 'none'}")
    try:
        steps = TypeAdapter(list[Step]).validate_python(load_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(
            f"{path}: {place or 'the file'}: {fault['msg']}; it is a list of name, variants, seeds, set"
        ) from None
    if len({step.name for step in steps}) < len(steps) or not steps:
        raise UserError(f"{path}: it needs steps, and each a name of its own")
    return list(_rows(study, steps, state, ensembles))


def _rows(study: str, steps: Iterable[Step], state: str, ensembles: Sequence[str]) -> Iterator[Row]:
    overrides: dict[str, Any] = {}
    for step in steps:
        overrides = overrides | dict(leaves(step.set))
        settings = (
            *(f"{key}={value_text(value)}" for key, value in overrides.items()),
            f"seeds={value_text(step.seeds)}",
            *(["ensembles=[]"] if ensembles and len(step.seeds) == 1 else []),
        )
        targets = tuple(paths.stage("evaluate", variant, seed) for variant in step.variants for seed in step.seeds)
        digest = hashlib.sha256(repr((settings, targets, state)).encode()).hexdigest()[:8]
        name = f"{study}-{_NO_NAME.sub('-', step.name.lower()).strip('-')}-{digest}"
        yield Row(step, Trial(name, settings, targets))


Lines = Mapping[tuple[str, str], Mapping[str, Any]]
"""Lines of a table by the row's command and the variant."""


def known(lines: Iterable[Mapping[str, Any]], test_set: str | None) -> Lines:
    """The lines of a table that was written before, perhaps by another clone, as far as they are on this test set."""
    return {(line["command"], line["variant"]): line for line in lines if line["test_set"] == test_set}


def is_complete(row: Row, lines: Lines) -> bool:
    """Whether all that a row asks for stands in these lines."""
    return all((row.command, variant) in lines for variant in row.step.variants)


def table(rows: Sequence[Row], snapshots: Sequence[Snapshot], commit: str, before: Lines) -> list[dict[str, Any]]:
    """One line for each row and variant whose seeds all have a result: means over seeds, or one seed's interval.

    `commit` is that of the snapshots; what they do not have is taken from the lines `before`.
    """
    found = {snapshot.name: snapshot for snapshot in snapshots}
    lines = []
    for row in rows:
        for variant in row.step.variants:
            snapshot = found.get(row.trial.name)
            results = snapshot.scores if snapshot else ()
            scores = [one for one in results if one["variant"] == variant and one["seed"] in row.step.seeds]
            if snapshot and len(scores) == len(row.step.seeds):
                lines.append(_line(row, variant, snapshot, scores, commit))
            elif (row.command, variant) in before:
                adds = " ".join(f"{key}={value_text(value)}" for key, value in leaves(row.step.set))
                lines.append({**before[row.command, variant], "step": row.step.name, "adds": adds})
    return lines


def _line(
    row: Row, variant: str, snapshot: Snapshot, scores: Sequence[Mapping[str, Any]], commit: str
) -> dict[str, Any]:
    means = {metric: statistics.fmean(one[metric]["score"] for one in scores) for metric in METRICS}
    several = len(scores) > 1
    return {
        "step": row.step.name,
        "adds": " ".join(f"{key}={value_text(value)}" for key, value in leaves(row.step.set)),
        "variant": variant,
        "seeds": len(scores),
        "bleu": round(means["bleu"], 4),
        "deviation": round(statistics.stdev(one["bleu"]["score"] for one in scores), 4) if several else None,
        "low": None if several else scores[0]["bleu"]["low"],
        "high": None if several else scores[0]["bleu"]["high"],
        "chrf": round(means["chrf"], 4),
        "results": " ".join(one["result_id"] for one in scores),
        "test_set": snapshot.test_set(scores[0])[0],
        "commit": commit,
        "command": row.command,
    }

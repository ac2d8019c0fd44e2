"""All results on one test set, best first, each with its intervals and what its parameters have changed."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmt import files, paths, records
from nmt.config import parse_yaml
from nmt.errors import UserError
from nmt.lockfile import made_with, parse, test_set
from nmt.markdown import measured, points

METRICS = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}
LOWER_IS_BETTER = ("ter",)
PERPLEXITY = "perplexity_per_token"
TEXT_COLUMNS = ("experiment", "variant", "seed", "parameters", "result_id", "test_set")


@dataclass(frozen=True)
class Snapshot:
    """The files of one state of the project: the workspace, a commit or an experiment."""

    name: str
    params: Mapping[str, Any]
    lock: Mapping[str, Any]
    """The stages of dvc.lock."""
    scores: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, name: str, texts: Mapping[str, str]) -> "Snapshot":
        """From the contents of params.yaml, dvc.lock and the scores; a file that is missing tells nothing.

        Scores of other variants and seeds, or that were made with other parameters, are left over and not its own.
        """
        params = parse_yaml(texts.get(paths.PARAMS.as_posix(), ""), f"{paths.PARAMS} of {name}") or {}
        lock = parse(texts.get(paths.LOCK.as_posix(), ""))
        wanted = {
            paths.scores(variant, seed).as_posix()
            for variant, seed in _models(params, name)
            if made_with(lock, params, variant, seed)
        }
        scores = [
            records.check(files.parse_json(text, f"{path} of {name}"), records.Ranked, f"{path} of {name}")
            for path, text in texts.items()
            if path in wanted
        ]
        return cls(name, params, lock, scores)

    def test_set(self, scores: Mapping[str, Any]) -> tuple[str | None, str]:
        """What a score must share with another to be compared: the md5 of the test set, and sacrebleu's signature."""
        return test_set(self.lock, scores["variant"], scores["seed"]), scores["bleu"]["signature"]


def _models(params: Any, name: str) -> Iterator[tuple[str, int]]:
    """Every variant and seed that parameters name; none, where there are no parameters."""
    if not params:
        return
    variants, seeds = (params.get(key) if isinstance(params, Mapping) else None for key in ("variants", "seeds"))
    if not isinstance(variants, Mapping) or not isinstance(seeds, list):
        raise UserError(f"{paths.PARAMS} of {name} names no variants, or no list of seeds")
    yield from itertools.product(variants, seeds)


@dataclass(frozen=True)
class Leaderboard:
    """Rows of equal keys, best first, and how many results were measured on another test set and so left out."""

    rows: Sequence[Mapping[str, Any]]
    left_out: int


def leaderboard(snapshots: Sequence[Snapshot], metric: str) -> Leaderboard:
    """Rank the results of all snapshots on the test set of the first that has any; one that several hold counts once.

    `parameters` are those that differ from the first snapshot's.
    """
    with_results = [snapshot for snapshot in snapshots if snapshot.scores]
    own = {first.test_set(scores) for first in with_results[:1] for scores in first.scores}
    rows: dict[str, dict[str, Any]] = {}
    left_out = set()
    for snapshot in snapshots:
        for scores in snapshot.scores:
            if snapshot.test_set(scores) not in own:
                left_out.add(scores["result_id"])
            elif scores["result_id"] not in rows:
                changes = changed(snapshots[0].params, snapshot.params)
                rows[scores["result_id"]] = _row(snapshot, scores, changes)
    sign = 1 if metric in LOWER_IS_BETTER else -1
    ranked = sorted(rows.values(), key=lambda row: (sign * row[metric], row["experiment"], row["variant"], row["seed"]))
    return Leaderboard(ranked, len(left_out - set(rows)))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Parameters of `after` that `before` has otherwise, or not: `train.learning_rate=0.003`, separated by spaces."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return " ".join(f"{key}={value_text(value)}" for key, value in new.items() if key not in old or old[key] != value)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """All values below a mapping by their full keys, such as `train.learning_rate`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_text(value: Any) -> str:
    """A value as `--set-param` takes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if not isinstance(value, str) else value


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells for people: scores with their intervals, ids by their first digits."""
    seeds = len({row["seed"] for row in rows}) > 1
    header = ["", "experiment", "variant", *(["seed"] if seeds else []), *METRICS.values(), "perplexity", "parameters"]
    cells = []
    for rank, row in enumerate(rows, start=1):
        scores = [_with_interval(row, metric) for metric in METRICS]
        names = [row["experiment"], row["variant"], *([str(row["seed"])] if seeds else [])]
        perplexity = points(float(row[PERPLEXITY]))
        cells.append([str(rank), *names, *scores, perplexity, row["parameters"], row["result_id"][:8]])
    return [*header, "result"], cells


def plain_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table with aligned columns, for a terminal."""
    lines = [(header_and_cells := table(rows))[0], *header_and_cells[1]]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def from_csv(text: str) -> list[dict[str, Any]]:
    """Rows as `nmt leaderboard --save` writes them, numbers as numbers."""
    try:
        return [
            {key: value if key in TEXT_COLUMNS else float(value) for key, value in row.items()}
            for row in files.parse_csv(text, str(paths.LEADERBOARD))
        ]
    except ValueError as error:
        raise UserError(f"{paths.LEADERBOARD} is damaged: {error}; `nmt leaderboard --save` writes it anew") from None


def _row(snapshot: Snapshot, scores: Mapping[str, Any], parameters: str) -> dict[str, Any]:
    measures = {
        f"{metric}{suffix}": scores[metric][key]
        for metric in METRICS
        for suffix, key in (("", "score"), ("_low", "low"), ("_high", "high"))
    }
    return {
        "experiment": snapshot.name,
        "variant": scores["variant"],
        "seed": scores["seed"],
        **measures,
        PERPLEXITY: scores[PERPLEXITY],
        "parameters": parameters,
        "result_id": scores["result_id"],
        "test_set": snapshot.test_set(scores)[0],
    }


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    mean, low, high = (float(row[f"{metric}{suffix}"]) for suffix in ("", "_low", "_high"))
    return measured({"mean": mean, "deviation": None, "low": low, "high": high}, points)

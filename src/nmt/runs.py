"""What the stages before reported about each variant and seed, and the long tables of all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt import paths, records, testset
from nmt.config import Params
from nmt.errors import UserError
from nmt.files import read_csv
from nmt.testset import Sentences, Translations

SCORES = ("bleu", "chrf", "ter")
ABLATIONS = ("run", "variant", "seed", "attention", "bleu", "low", "high")
ALIGNMENT = ("run", "variant", "seed", "method", "precision", "recall", "aer", "low", "high")


@dataclass(frozen=True)
class Run:
    """Everything reported about one variant trained with one seed."""

    variant: str
    seed: int
    training: Mapping[str, Any]
    history: Sequence[Mapping[str, str]]
    scores: Mapping[str, Any]
    attention: Mapping[str, Any]
    """Empty where no analysis of the attention is present."""
    translations: Translations

    @property
    def name(self) -> str:
        """The name that DVC's stages of this model carry, too."""
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class EnsembleRun:
    """What is reported about the models of all seeds of one variant that translate together."""

    variant: str
    seeds: Sequence[int]
    scores: Mapping[str, Any]
    translations: Translations


Runs = Mapping[str, Sequence[Run]]
"""A variant's name -> its runs, one per seed; in the order of `params.yaml`."""


def read_runs(params: Params, sentences: Sentences) -> Runs:
    """Read the reports of the variants and seeds of `params.yaml`; whatever else lies in the folders is left alone."""
    runs = {name: [read_run(name, seed, sentences) for seed in params.seeds] for name in params.variants}
    _check_signatures({run.name: run.scores for several in runs.values() for run in several})
    return runs


def _check_signatures(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse scores that were not measured in one way."""
    for metric in SCORES:
        signatures = {name: one[metric]["signature"] for name, one in scores.items()}
        if len(set(signatures.values())) > 1:
            listed = ", ".join(f"{name} {signature}" for name, signature in signatures.items())
            raise UserError(f"{metric} was not measured in one way: {listed}; run `dvc repro evaluate`")


def read_ensembles(params: Params, sentences: Sentences, runs: Runs) -> Mapping[str, EnsembleRun]:
    """Read the reports of the ensembles of `params.yaml`, whose models are those of `runs`."""
    found = {name: read_ensemble(name, params.seeds, sentences) for name in params.ensembles}
    for name, one in found.items():
        _check_signatures({f"{name}-{paths.ENSEMBLE}": one.scores, **{run.name: run.scores for run in runs[name]}})
    return found


def read_ensemble(variant: str, seeds: Sequence[int], sentences: Sentences) -> EnsembleRun:
    """Read the reports of one ensemble."""
    path, stage = paths.scores(variant, paths.ENSEMBLE), paths.stage("evaluate", variant, paths.ENSEMBLE)
    scores = records.read_one(testset.present(path, stage), records.EnsembleScores)
    if scores["seeds"] != list(seeds):
        raise UserError(f"{path} is of the seeds {scores['seeds']}, not of {list(seeds)}; run `dvc repro {stage}`")
    return EnsembleRun(variant, seeds, scores, testset.read_translations(variant, paths.ENSEMBLE, sentences))


def read_run(variant: str, seed: int, sentences: Sentences) -> Run:
    """Read the reports of one model."""
    history = paths.training_report(variant, seed) / "history.csv"
    attention = paths.attention_report(variant, seed) / "summary.json"
    evaluate = paths.stage("evaluate", variant, seed)
    return Run(
        variant=variant,
        seed=seed,
        training=testset.read_training(variant, seed),
        history=read_history(testset.present(history, paths.stage("train", variant, seed))),
        scores=records.read_one(testset.present(paths.scores(variant, seed), evaluate), records.Scores),
        attention=records.read_one(attention, records.Analysis) if attention.exists() else {},
        translations=testset.read_translations(variant, seed, sentences),
    )


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of a training's history, each number as it is written there."""
    columns = ("epoch", "updates", "dev_loss")
    rows = read_csv(path, columns)
    try:
        finite = all(math.isfinite(float(row[column])) for row in rows for column in columns)
    except ValueError as error:
        raise UserError(f"{path} is not a history of a training ({error}); `git restore` brings it back") from None
    if not finite:
        raise UserError(f"{path} holds a number that is not finite; `git restore` brings it back")
    return rows


def curves(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and epoch."""
    return [identify(run) | dict(row) for several in runs.values() for run in several for row in run.history]


def by_length(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and class of source length; `length` is the class's mean."""
    return [
        identify(run) | {"length": row["mean_length"]} | {key: row[key] for key in row if key != "mean_length"}
        for several in runs.values()
        for run in several
        for row in run.scores["by_length"]
    ]


def joined(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and number of joined sentences."""
    return [identify(run) | dict(row) for several in runs.values() for run in several for row in run.scores["joined"]]


def by_frequency(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and class of reference words; `frequency` says how often they stand in training."""
    return [
        identify(run) | {"frequency": extent(row["low"], row["high"])} | dict(row)
        for several in runs.values()
        for run in several
        for row in run.scores["by_frequency"]
    ]


def extent(low: int, high: int | None) -> str:
    """Return the numbers of a class."""
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}–{high}"


def ablations(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and way to disturb its attention, with ABLATIONS' columns; `whole`: as trained."""
    return [
        identify(run) | {"attention": name} | dict(row)
        for several in runs.values()
        for run in several
        if run.scores["ablations"]
        for name, row in {"whole": whole(run), **run.scores["ablations"]}.items()
    ]


def whole(run: Run) -> dict[str, float]:
    """Return BLEU with its interval, as an ablation has it."""
    bleu = run.scores["bleu"]
    return {"bleu": bleu["score"], "low": bleu["low"], "high": bleu["high"]}


def alignment(runs: Runs) -> list[dict[str, Any]]:
    """Return one row per run and way to read word links, with ALIGNMENT's columns; none without hand-made links."""
    return [
        identify(run) | dict(row)
        for several in runs.values()
        for run in several
        for row in (run.attention.get("alignment") or {"rows": []})["rows"]
    ]


def identify(run: Run) -> dict[str, Any]:
    """Return the columns that say which run a row of a table belongs to."""
    return {"run": run.name, "variant": run.variant, "seed": run.seed}

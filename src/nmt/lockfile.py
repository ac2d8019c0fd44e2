"""`dvc.lock`: the md5 of every output, by stage."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from nmt import paths
from nmt.config import parse_yaml
from nmt.records import Record, check

Outputs = Mapping[str, Mapping[str, str]]
"""Stage -> path of an output -> its md5 as DVC writes it (a folder's ends in `.dir`)."""


class Entry(Record):
    """A dependency or an output."""

    path: str
    md5: str | None = None


class Stage(Record):
    """What a stage read and wrote when it last ran."""

    deps: list[Entry] = Field(default_factory=list)
    outs: list[Entry] = Field(default_factory=list)
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Lock(Record):
    """The whole file."""

    stages: dict[str, Stage] | None = None


def parse(text: str) -> dict[str, Any]:
    """The stages of a lock file, by name."""
    content = check(parse_yaml(text, paths.LOCK) or {}, Lock, str(paths.LOCK))
    stages: dict[str, Any] = content.get("stages") or {}
    return stages


def outputs(stages: Mapping[str, Any]) -> Outputs:
    """What each stage wrote."""
    return {name: _digests(stage, "outs") for name, stage in stages.items()}


def model_stages(stages: Mapping[str, Any], variant: str, seed: int) -> list[str]:
    """The stages of one model; whatever else it needs comes before them."""
    return [name for name in stages if name.endswith(paths.stage("", variant, seed))]


def test_set(stages: Mapping[str, Any], variant: str, seed: int) -> str | None:
    """The md5 of the test set that one model was scored on."""
    stage = stages.get(paths.stage("evaluate", variant, seed), {})
    return _digests(stage, "deps").get(paths.prepared_records("test").as_posix())


def made_with(stages: Mapping[str, Any], params: Mapping[str, Any], variant: str, seed: int) -> bool:
    """Whether one model's training, translations and scores were made with these parameters.

    An experiment that ran only some stages holds, for the others, what its commit held: files and lock entries of other
    parameters than its own. Scores that the lock does not know may be of any.
    """
    if paths.stage("evaluate", variant, seed) not in stages:
        return False
    stages_of_scores = (stages.get(paths.stage(name, variant, seed), {}) for name in ("train", "translate", "evaluate"))
    return all(has_params(stage, params) for stage in stages_of_scores)


def has_params(stage: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether a stage last ran with these parameters."""
    recorded = stage.get("params", {}).get(paths.PARAMS.name, {})
    return all(_at(params, key) == value for key, value in recorded.items())


def _at(params: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        params = params.get(part) if isinstance(params, Mapping) else None
    return params


def holds(stages: Mapping[str, Any], written: Iterable[Path]) -> bool:
    """Whether the lock names these very files: it does not while the stage that wrote them, or DVC, still runs."""
    locked = {path: md5 for outs in outputs(stages).values() for path, md5 in outs.items()}
    return all(path.is_file() and locked.get(path.as_posix()) == file_md5(path) for path in written)


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes, which is how DVC names them."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(folder: Path) -> str:
    """The md5 that DVC gives a folder: that of the listing of its files, sorted by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listing = [{"md5": file_md5(folder / name), "relpath": name} for name in names]
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _digests(stage: Mapping[str, Any], key: str) -> dict[str, str]:
    return {str(entry["path"]): str(entry["md5"]) for entry in stage.get(key, []) if entry.get("md5")}

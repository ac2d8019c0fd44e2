"""Which result is this? Hashes over everything that a model and its scores depend on.

`training_id` covers what `dvc.yaml` lists under the stage `train`: the values of its `params:` and the bytes of its
`deps:`. The lists are read from `dvc.yaml` itself, so what makes DVC train again is what makes a new id, and DVC need
not be installed.
`result_id` adds the parameters of translation and scoring; by it an MLflow run is found.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmt import files, paths
from nmt.config import Params, load_yaml
from nmt.errors import UserError

STAGE = "train"
DIGITS = 16
_PLACEHOLDER = re.compile(r"\$\{\s*([^}]*?)\s*\}")
_IGNORED = frozenset({"__pycache__"})  # as in .dvcignore


def training_id(variant: str, seed: int) -> str:
    """Hash of the parameters, code and data that one training depends on: 16 hexadecimal digits."""
    return _hash({"variant": variant, "seed": seed, **_inputs(STAGE, variant, seed)})


def work_id(stage: str, variant: str, seed: int | str, *machine: str) -> str:
    """Hash of all that a stage's bytes for one model or ensemble come from, the `machine` included: 16 digits."""
    own = {"stage": stage, "variant": variant, "seed": seed, "machine": list(machine)}
    return _hash(own | _inputs(stage, variant, seed))


def result_id(training_id: str, params: Params) -> str:
    """Hash of a training and of how its model is decoded and scored: 16 hexadecimal digits."""
    sections = {"translate": params.translate.model_dump(), "evaluate": params.evaluate.model_dump()}
    return _hash({"training": training_id, **sections})


def run_name(variant: str, seed: int, result_id: str, params: Params) -> str:
    """A short name for people, such as `attention-3f9a2c1b`; the seed stands in it where there are several."""
    return "-".join([variant, *([str(seed)] if len(params.seeds) > 1 else []), result_id[:8]])


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, or of the names and bytes of all files below a folder."""
    if path.is_file():
        return files.sha256(path)
    if not path.is_dir():
        raise UserError(f"{path}, which {paths.PIPELINE} names, does not exist; `dvc repro` or `dvc pull` brings it")
    return _hash({name: files.sha256(path / name) for name in _files_below(path)}, digits=64)


def _files_below(folder: Path) -> Iterator[str]:
    """Names relative to `folder`, sorted, as POSIX paths."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not _IGNORED.intersection(name.parts) and path.suffix != ".pyc":
            yield name.as_posix()


def _inputs(name: str, variant: str, seed: int | str) -> dict[str, Any]:
    """The values of a stage's `params:` and the hashes of its `deps:`."""
    stages = (load_yaml(paths.PIPELINE) or {}).get("stages", {})
    if name not in stages:
        raise UserError(f"{paths.PIPELINE} has no stage {name!r}")
    item = {"item.variant": variant, "item.seed": str(seed)}
    params = load_yaml(paths.PARAMS)
    listed = {key: _names(stages[name].get(key, []), f"{name}.{key}", item) for key in ("params", "deps")}
    return {
        "params": {key: _lookup(params, key, name) for key in listed["params"]},
        "deps": {dep: content_hash(Path(dep)) for dep in listed["deps"]},
    }


def _names(names: list[Any], key: str, item: dict[str, str]) -> list[str]:
    """The entries of `params:` or `deps:`, with `${item.variant}` and `${item.seed}` filled in as DVC does."""
    if unreadable := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{paths.PIPELINE}: {key} may only list names, not {unreadable[0]!r}")
    return [_PLACEHOLDER.sub(lambda match: _fill(match[1], key, item), name) for name in names]


def _fill(name: str, key: str, item: dict[str, str]) -> str:
    if name not in item:
        raise UserError(f"{paths.PIPELINE}: {key.partition('.')[0]} uses ${{{name}}}; known here: {', '.join(item)}")
    return item[name]


def _lookup(params: Any, key: str, stage: str) -> Any:
    """The value of a dotted key."""
    value = params
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{paths.PARAMS} has no key {key!r}, but {paths.PIPELINE} names it for {stage}")
        value = value[part]
    return value


def _hash(value: Any, digits: int = DIGITS) -> str:
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:digits]


def _plain(value: Any) -> Any:
    """Write 1.0 as 1: DVC compares values, and to it the two are equal."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

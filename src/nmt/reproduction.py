"""Making a run again in a fresh clone, and holding the outputs to the md5s that were recorded."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any, Protocol

from ruamel.yaml import YAML

from nmt import files, lockfile, paths
from nmt.errors import UserError
from nmt.lockfile import Outputs
from nmt.repository import dvc, git, has, show_dvc, stage_environment

_FIRST_STAGE = "fetch"
# Settings of another run must not leak in.
_OURS = ("MLFLOW_", "DVC_EXP", "DVC_ROOT", "DVC_STAGE", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")


class Origin(Protocol):
    """What a run was made from."""

    @property
    def name(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def commit(self) -> str: ...
    @property
    def changes(self) -> bytes | None: ...
    @property
    def params(self) -> str: ...
    @property
    def lock(self) -> str: ...


def reproduce(origin: Origin, folder: Path) -> tuple[Outputs, list[str]]:
    """Run the stages of one model in a clone at `folder`; return what they wrote and the outputs that differ.

    Raises:
        UserError: the commit is not here, the changes do not apply, or a stage fails.
    """
    recorded = lockfile.parse(origin.lock)
    _check_out(origin, folder)
    _own_cache(folder)
    _reuse_corpus(recorded, folder)
    targets = lockfile.model_stages(recorded, origin.variant, origin.seed)
    print(f"reproducing {origin.name} in {folder}: {', '.join(targets)} and what comes before", file=sys.stderr)
    show_dvc("repro", *targets, folder=folder, environment=_environment())
    made = lockfile.outputs(lockfile.parse(files.read_text(folder / paths.LOCK)))
    return made, differing(lockfile.outputs(recorded), made)


def differing(recorded: Outputs, made: Outputs) -> list[str]:
    """The outputs whose md5 is not the recorded one, in the order of the stages; one that was not recorded differs."""
    return [
        path for stage, outs in made.items() for path, md5 in outs.items() if recorded.get(stage, {}).get(path) != md5
    ]


def _check_out(origin: Origin, folder: Path) -> None:
    """The commit, with the changes and the parameters on top; what git ignores here is not there."""
    top = git("rev-parse", "--show-toplevel").strip()
    if not has("cat-file", "-e", f"{origin.commit}^{{commit}}"):
        raise UserError(f"the commit {origin.commit} of {origin.name} is not in this repository; `git fetch` it first")
    git("clone", "--quiet", "--shared", "--no-checkout", top, str(folder))
    git("checkout", "--quiet", "--detach", origin.commit, folder=folder)
    if origin.changes and b"\ndiff " in origin.changes:
        git("apply", "--whitespace=nowarn", "-", folder=folder, stdin=origin.changes)
    files.write_text(folder / paths.PARAMS, origin.params)
    (folder / paths.LOCK).unlink(missing_ok=True)


def _own_cache(folder: Path) -> None:
    """Whatever cache the project or the user has set, here it is a new one."""
    dvc("config", "--local", "cache.dir", str(folder / ".dvc" / "cache"), folder=folder)


def _reuse_corpus(recorded: dict[str, Any], folder: Path) -> None:
    """Take the files as downloaded from the project's cache, each held to its md5; without all of them, download."""
    stage = recorded.get(_FIRST_STAGE)
    md5s = list(lockfile.outputs({_FIRST_STAGE: stage or {}})[_FIRST_STAGE].values())
    cache = Path(dvc("cache", "dir").strip()) / "files" / "md5"
    wanted = [blob for md5 in md5s for blob in _blobs(cache, md5)]
    if not wanted or not all(_is_unharmed(cache, blob) for blob in wanted):
        return
    for blob in wanted:
        target = _place(folder / ".dvc" / "cache" / "files" / "md5", blob)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_place(cache, blob), target)
    text = io.StringIO()
    YAML().dump({"schema": "2.0", "stages": {_FIRST_STAGE: stage}}, text)
    files.write_text(folder / paths.LOCK, text.getvalue())


def _blobs(cache: Path, md5: str) -> list[str]:
    """The md5s of all that belongs to an output: the listing and the files of a folder; of a harmed listing its own."""
    if not md5.endswith(".dir") or not _is_unharmed(cache, md5):
        return [md5]
    return [md5, *(entry["md5"] for entry in files.read_json(_place(cache, md5)))]


def _place(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _is_unharmed(cache: Path, md5: str) -> bool:
    path = _place(cache, md5)
    return path.is_file() and lockfile.file_md5(path) == md5.removesuffix(".dir")


def _environment() -> dict[str, str]:
    """Tracking off, and nothing of a run that this one may be part of."""
    kept = {name: value for name, value in stage_environment().items() if not name.startswith(_OURS)}
    return kept | {"NMT_TRACKING": "off"}

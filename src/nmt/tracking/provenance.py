"""What a run came from: the commit, local changes, the DVC experiment."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nmt import paths
from nmt.repository import GIT

_DVC_VARIABLES = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
_RESULTS = (paths.REPORTS, paths.MODELS, paths.LOCK)  # what a run writes is no local change
_SETTINGS = (".dvc/config",)  # where DVC's remotes are, perhaps with a password
_INPUTS = (".", *(f":(exclude){path}" for path in (*_RESULTS, *_SETTINGS)))
_SOURCES = (paths.SOURCES, paths.PARAMS, paths.PIPELINE, paths.CORPORA)  # here a file unknown to git counts, too
_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--binary", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--")


@dataclass(frozen=True)
class Checkout:
    """The state of the git working tree, results left out."""

    commit: str
    status: str
    """`git status --porcelain` of the inputs: empty where the commit says it all."""
    diff: bytes
    """The changes, as `git apply` takes them; new files below the sources are in it, others are only in `status`."""

    @property
    def dirty(self) -> bool:
        return bool(self.status)

    def tags(self) -> dict[str, str]:
        """What a run says of it."""
        dirty = str(self.dirty).lower()
        return {"git.commit": self.commit, "mlflow.source.git.commit": self.commit, "git.dirty": dirty}


def read_checkout() -> Checkout | None:
    """The working tree's state; None outside git, or before the first commit."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", *_INPUTS)
    if commit is None or status is None:
        return None
    return Checkout(commit.strip(), status, _diff() if status else b"")


def _diff() -> bytes:
    """What differs from the commit; new files are named in a copy of git's index, so that the diff shows them."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        shutil.copyfile((_git("rev-parse", "--git-path", "index") or "").strip(), index)
        sources = [str(path) for path in _SOURCES if path.exists()]
        _git_bytes("add", "--intent-to-add", "--", *sources, index=index)
        return _git_bytes(*_DIFF, *_INPUTS, index=index) or b""


def local_changes() -> str:
    """A hash of what differs from the commit, or nothing where nothing does."""
    checkout = read_checkout()
    return hashlib.sha256(changes(checkout)).hexdigest() if checkout and checkout.dirty else ""


def provenance_tags() -> dict[str, str]:
    """Tags of a new run; those that cannot be known are absent."""
    tags = {name: os.environ[name] for name in _DVC_VARIABLES if os.environ.get(name)}
    if checkout := read_checkout():
        tags |= checkout.tags()
    return tags


def changes(checkout: Checkout) -> bytes:
    """Local changes as a patch that `git apply` takes, headed by the list of changed and untracked files."""
    header = "".join(f"# {line}\n" for line in checkout.status.splitlines())
    return f"{header}\n".encode() + checkout.diff


def _git(*arguments: str) -> str | None:
    printed = _git_bytes(*arguments)
    return None if printed is None else printed.decode("utf-8", "replace")


def _git_bytes(*arguments: str, index: Path | None = None) -> bytes | None:
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        done = subprocess.run([*GIT, *arguments], capture_output=True, check=False, timeout=30, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

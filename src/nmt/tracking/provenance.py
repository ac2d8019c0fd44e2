"""What a run came from: the commit, local changes, the DVC experiment."""

import os
import subprocess
from dataclasses import dataclass

from nmt import paths

_DVC_VARIABLES = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
_RESULTS = (paths.REPORTS, paths.MODELS, paths.LOCK)  # what a run writes is no local change
_INPUTS = (".", *(f":(exclude){path}" for path in _RESULTS))


@dataclass(frozen=True)
class Checkout:
    """The state of the git working tree, results left out."""

    commit: str
    status: str
    """`git status --porcelain` of the inputs: empty where the commit says it all."""
    diff: str

    @property
    def dirty(self) -> bool:
        return bool(self.status)


def read_checkout() -> Checkout | None:
    """The working tree's state; None outside git, or before the first commit."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", *_INPUTS)
    if commit is None or status is None:
        return None
    return Checkout(commit.strip(), status, _git("diff", "--no-ext-diff", "HEAD", "--", *_INPUTS) or "")


def provenance_tags() -> dict[str, str]:
    """Tags of a new run; those that cannot be known are absent."""
    tags = {name: os.environ[name] for name in _DVC_VARIABLES if os.environ.get(name)}
    if checkout := read_checkout():
        tags["git.commit"] = tags["mlflow.source.git.commit"] = checkout.commit
        tags["git.dirty"] = str(checkout.dirty).lower()
    return tags


def changes_text(checkout: Checkout) -> str:
    """Local changes as a patch that `git apply` takes, headed by the list of changed and untracked files."""
    header = "".join(f"# {line}\n" for line in checkout.status.splitlines())
    return f"{header}\n{checkout.diff}"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-c", "color.ui=false", *arguments], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None

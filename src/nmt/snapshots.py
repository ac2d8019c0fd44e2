"""States of the project that hold results: the workspace, the present commit, the experiments."""

from collections.abc import Iterable, Sequence

from nmt import experiments, files, paths
from nmt.experiments import Experiment
from nmt.leaderboard import Snapshot
from nmt.repository import git

HEAD, WORKSPACE = "HEAD", "workspace"
_READ = (paths.PARAMS, paths.LOCK, paths.SCORES)


def all_snapshots() -> list[Snapshot]:
    """The present commit first, then the workspace, then every experiment, whichever commit it began at."""
    return [committed(HEAD, HEAD), workspace(), *of_experiments(experiments.finished())]


def of_experiments(chosen: Iterable[Experiment]) -> list[Snapshot]:
    """The experiments in the order of their names."""
    return [committed(one.name, one.commit) for one in sorted(chosen, key=lambda one: (one.name, one.baseline))]


def committed(name: str, commit: str) -> Snapshot:
    """The files of a commit."""
    listed = git("ls-tree", "-r", "--name-only", commit, "--", *map(str, _READ)).splitlines()
    return Snapshot.of(name, dict(zip(listed, _contents(commit, listed), strict=True)))


def workspace() -> Snapshot:
    """The files as they lie here; scores that are older than the code still count as its own."""
    names = [path for root in _READ for path in ([root] if root.is_file() else sorted(root.rglob("*.json")))]
    return Snapshot.of(WORKSPACE, {path.as_posix(): files.read_text(path) for path in names if path.exists()})


def _contents(commit: str, names: Sequence[str]) -> list[str]:
    return [git("show", f"{commit}:{name}") for name in names]

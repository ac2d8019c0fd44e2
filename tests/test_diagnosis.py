"""`nmt doctor`: what copies of the project would lack."""

import subprocess
from pathlib import Path

import pytest

from nmt import files, paths
from nmt.commands import diagnosis
from nmt.commands.diagnosis import NOTE, OK
from nmt.config import load_params
from tests.project import ROOT
from tests.synthetic_results import git


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the project's parameters and catalogue."""
    monkeypatch.chdir(tmp_path)
    for name in (paths.PARAMS, paths.CORPORA):
        files.write_text(name, files.read_text(ROOT / name))
    subprocess.run(["git", "init", "--quiet"], check=True)
    return tmp_path


@pytest.mark.parametrize(
    "pipeline", ["stages:\n", "stages: {read: {cmd: cat, deps: [data/wörter]}}\n"], ids=["no stage", "beyond ASCII"]
)
def test_what_git_carries_is_no_fault(folder: Path, pipeline: str) -> None:
    """Whatever alphabet its name is in; nor is a pipeline without stages."""
    files.write_text(paths.PIPELINE, pipeline)
    files.write_text(Path("data/wörter/猫.txt"), "猫\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All")
    assert [finding.state for finding in diagnosis.inputs()] == [OK]
    files.write_text(Path("data/wörter/狗.txt"), "狗\n")
    assert [finding.text for finding in diagnosis.inputs() if "狗" in finding.text] == (
        ["git does not carry data/wörter/狗.txt; `git add` it (or stop ignoring it); "
         "`dvc exp run --temp` and `--queue` run without it"] if "read" in pipeline else []
    )  # fmt: skip


def test_a_fresh_clone_has_no_results(folder: Path) -> None:
    """It is told, with what makes them."""
    (finding,) = diagnosis.results()
    assert (finding.state, finding.text) == (NOTE, "none yet; `make repro` makes them")
    paths.bundle("plain", load_params().seeds[0]).mkdir(parents=True)
    (finding,) = diagnosis.results()
    assert finding.state == OK
    assert finding.text.startswith("1 of ")

"""The same bytes wherever it runs: a clean clone under other settings of the machine."""

import shutil
from pathlib import Path

import pytest

from tests.kills import locked
from tests.project import Project

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dvc")]

OTHER = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",  # with these two, Python itself reads and writes ASCII unless it is told otherwise
    "TZ": "Pacific/Kiritimati",
    "PYTHONHASHSEED": "4242",
    "SHELL": "/bin/sh",
    "OMP_NUM_THREADS": "2",
    "NMT_TRACKING": "off",
}
LONG = "a folder with a long name and spaces " * 4  # not beyond ASCII: in that locale DVC itself stops there


def test_a_clean_clone_gives_the_same_md5s(small_project: Project, tmp_path: Path) -> None:
    """Locale, time zone, hash seed, shell, threads, length of the path and umask differ; no md5 in dvc.lock does."""
    clone = Project(tmp_path / LONG / "clone")
    small_project.run("git", "clone", "--quiet", str(small_project.folder), str(clone.folder))
    shutil.copy(small_project.folder / "data/local.tsv", clone.folder / "data")
    (clone.folder / "dvc.lock").unlink()
    shutil.rmtree(clone.folder / "reports")
    clone.run("git", "checkout", "--quiet", "reports/experiments")  # no output, but what people keep of experiments
    output = clone.run("sh", "-c", "umask 077; exec dvc repro", **OTHER)
    expected, found = locked(small_project), locked(clone)
    assert clone.stages_run(output) == set(expected)
    assert {name for name in expected if expected[name] != found.get(name)} == set()
    # dvc.lock has the stages in the order in which they ended, which side by side may be any
    assert clone.run("git", "status", "--porcelain", "--", ":!dvc.lock") == ""

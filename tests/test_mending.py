"""What a killed dvc leaves half-written is told and put right; what is whole is left alone."""

import subprocess
from pathlib import Path

import pytest
from dvc.lock import make_lock

from nmt import files, paths
from nmt.commands import main
from nmt.errors import UserError
from nmt.mending import faults, mend

WHOLE = "schema: '2.0'\nstages:\n  fetch:\n    cmd: fetch\n    outs:\n    - path: data/raw\n      md5: 1.dir\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit and the folder in which DVC keeps its locks."""
    monkeypatch.chdir(tmp_path)
    paths.DVC_LOCK.parent.mkdir(parents=True)
    files.write_text(Path(".gitignore"), ".dvc\n")
    for command in ("init --quiet", "config user.name Test", "config user.email test@example.com"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_path


def commit() -> None:
    """Commit all that is there."""
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--no-gpg-sign", "--message", "All"], check=True)


def test_whole_files_are_left_alone(folder: Path) -> None:
    """And absent ones."""
    assert list(mend()) == []
    files.write_text(paths.LOCK, WHOLE)
    files.write_text(paths.DVC_READERS, "{}")
    assert list(mend()) == []
    assert files.read_text(paths.LOCK) == WHOLE
    assert paths.DVC_READERS.exists()


@pytest.mark.parametrize(
    "cut",
    [b"", WHOLE[:30].encode(), WHOLE[:65].encode(), b"schema: '2.0'\nstages: [\n", WHOLE.encode() + b"# \xe7\x8c"],
)
def test_a_lock_that_was_cut_off_is_that_of_the_commit(
    folder: Path, cut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where DVC's kill can cut it, in a line too; without one in git it goes, and the run cache has all."""
    files.write_bytes(paths.LOCK, cut)
    assert list(faults()) == ["dvc.lock was cut off while DVC wrote it"]
    files.write_text(paths.LOCK, WHOLE)
    commit()
    files.write_bytes(paths.LOCK, cut)
    assert main(["mend"]) == 0
    assert "took that of the last commit" in capsys.readouterr().out
    assert files.read_text(paths.LOCK) == WHOLE
    subprocess.run(["git", "rm", "--quiet", "--cached", str(paths.LOCK)], check=True)
    subprocess.run(["git", "commit", "--quiet", "--no-gpg-sign", "--message", "None"], check=True)
    files.write_bytes(paths.LOCK, cut)
    assert main(["mend"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not paths.LOCK.exists()


@pytest.mark.parametrize("text", [b'{"read": {"data/raw": [{"pi', b"[]", b"null", b'{"read": "\xe7'])
def test_the_list_of_readers_is_removed(folder: Path, text: bytes) -> None:
    """It names processes; those of a whole one are left to DVC, which looks whether they live."""
    files.write_bytes(paths.DVC_READERS, text)
    assert [line.endswith("removed") for line in mend()] == [True]
    assert not paths.DVC_READERS.exists()


def test_a_dvc_that_lives_is_not_interrupted(folder: Path) -> None:
    """What looks cut off may be half-written right now."""
    files.write_text(paths.LOCK, "")
    with make_lock(str(paths.DVC_LOCK)), pytest.raises(UserError, match="another dvc is at work"):
        list(mend())
    assert files.read_text(paths.LOCK) == ""

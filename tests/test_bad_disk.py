"""A disk that is full, read-only or gone: one clear error, and the last good state is left."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt import files
from nmt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nmt.errors import UserError
from tests.project import Project

ROOM = 1 << 20
"""Bytes of the small disk."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def state(size: int, value: float) -> Checkpoint:
    """A state of so many numbers."""
    return Checkpoint({"x": torch.full((size,), value)}, {"value": value})


def holds_old(folder: Path) -> bool:
    """Whether the folder is as it was before the write that failed."""
    return (
        sorted(path.name for path in folder.iterdir()) == ["file", "folder"] and (folder / "file").read_text() == "old"
    )


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk where nobody may mount one."""
    (tmp_path / "folder").mkdir()
    files.write_text(tmp_path / "file", "old")
    writes = {
        "text": lambda: files.write_text(tmp_path / "file", "new" * 1000),
        "matrices": lambda: files.write_matrices(tmp_path / "file", [np.random.default_rng(1).random((50, 50))]),
        "csv": lambda: files.write_csv(tmp_path / "file", [{"a": "new" * 1000}]),
    }
    for name, write in writes.items():
        with small_files(1000), pytest.raises(UserError, match=r"file: File too large; .*`ulimit -f`.*run again"):
            write()
        assert holds_old(tmp_path), name


def test_a_full_disk_leaves_the_last_state(small_disk: Path) -> None:
    """The checkpoint that does not fit is not there, the one before it is used; with room again all goes on."""
    save_checkpoint(small_disk / "state", state(ROOM // 16, 1.0), {})
    files.write_bytes(small_disk / "ballast", bytes(ROOM // 2))
    with pytest.raises(UserError, match=r"next.safetensors: No space left on device; make room on this disk"):
        save_checkpoint(small_disk / "state", state(ROOM // 16, 2.0), {})
    assert [path.name for path in (small_disk / "state").iterdir()] == ["state.safetensors"]
    found = load_checkpoint(small_disk / "state", {})
    assert found is not None
    assert found.progress == {"value": 1.0}
    (small_disk / "ballast").unlink()
    save_checkpoint(small_disk / "state", state(ROOM // 16, 2.0), {})


def test_a_full_disk_leaves_the_old_folder(small_disk: Path) -> None:
    """An output folder is the old one or the new one."""
    (small_disk / "folder").mkdir()
    files.write_text(small_disk / "file", "old")
    with (
        pytest.raises(UserError, match="No space left on device"),
        files.fresh_folder(small_disk / "folder") as draft,
        files.atomic_write(draft / "file") as stream,
    ):
        stream.write(bytes(2 * ROOM))
    assert holds_old(small_disk)


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    """It says what is read-only, and changes nothing."""
    (small_disk / "folder").mkdir()
    files.write_text(small_disk / "file", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"file: Read-only file system; the folder is read-only: mount it"):
        files.write_text(small_disk / "file", "new")
    with pytest.raises(UserError, match="Read-only file system"), files.fresh_folder(small_disk / "folder"):
        pass
    assert holds_old(small_disk)


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    """As when a network file system goes while a stage writes."""
    gone = "it is not there, or has gone"
    with pytest.raises(UserError, match=gone), files.fresh_folder(tmp_path / "mount" / "out"):
        shutil.rmtree(tmp_path / "mount")
    with pytest.raises(UserError, match=gone), files.atomic_write(tmp_path / "mount" / "file"):
        shutil.rmtree(tmp_path / "mount")
    assert not (tmp_path / "mount").exists()


def test_another_files_fault_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """What is read while a file is written keeps its own error."""
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.atomic_write(tmp_path / "file"):
        (tmp_path / "elsewhere").read_bytes()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """Its drafts would be taken for results, by DVC in a folder and by git; those of one that lives are left alone."""
    program = (
        "import sys, time; from pathlib import Path; from nmt import files\n"
        "with files.atomic_write(Path('file')), files.fresh_folder(Path('folder')):\n"
        "    print('writing', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": SOURCES})
    assert process.stdout
    assert process.stdout.readline() == b"writing\n"
    files.write_text(tmp_path / "file", "old")
    assert len(list(tmp_path.glob(".*.draft"))) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    files.write_text(tmp_path / "file", "old")
    with files.fresh_folder(tmp_path / "folder"):
        pass
    assert holds_old(tmp_path)


SOURCES = str(Path(files.__file__).parents[1])


@pytest.mark.integration
@pytest.mark.xdist_group("dvc")
@pytest.mark.parametrize("stage", ["prepare", "train", "translate"])
def test_a_stage_on_a_full_disk_says_so(small_project: Project, tmp_path: Path, stage: str) -> None:
    """One line, no traceback; what is there still is, and with room again it runs to the same bytes."""
    project = small_project.copy(tmp_path / "project")
    arguments = ["-m", f"nmt.stages.{stage}", *([] if stage == "prepare" else ["plain", "1"])]
    limited = f"ulimit -f 8; exec {sys.executable} {' '.join(arguments)}"  # blocks of 512 or 1024 bytes
    environment = {"PYTHONPATH": "src", "NMT_TRACKING": "off", "NMT_CHECKPOINT_SECONDS": "0"}
    output = project.run("sh", "-c", limited, check=False, **environment)
    assert "File too large" in output.splitlines()[-1]
    assert output.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in output
    assert not list(project.folder.rglob(".*.draft"))
    project.run(sys.executable, *arguments, **environment)
    assert "Data and pipelines are up to date" in project.dvc("status")

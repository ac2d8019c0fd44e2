"""Work that a kill may cut off: where its parts lie, who may do it, and when it is no longer needed.

A folder per piece of work, named by the hash of all that it depends on, in the workspace and outside of every DVC
output: DVC empties those before a stage starts, and runs experiments in copies that it throws away. A folder stays
until dvc.lock names what became of it, because a kill between a stage's end and that would cost all of its work.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nmt import files, lockfile, paths
from nmt.tracking.place import workspace

_OUTCOME = "outcome.json"


@contextlib.contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Hold a lock that goes with the process; while another has it, wait, and say that it is `busy`."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting: {busy}", file=sys.stderr, flush=True)
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


@contextlib.contextmanager
def work(stage: str, work_id: str) -> Iterator[Path]:
    """The folder of one piece of work, for this process alone; what a process that was killed left there is in it."""
    folder = workspace() / paths.unfinished(stage, work_id)
    with alone(folder.with_suffix(".lock"), f"another process does the same work ({stage}, {work_id})"):
        folder.mkdir(exist_ok=True)
        yield folder


def done(folder: Path, output: Path) -> None:
    """Note what became of the work: when dvc.lock names this output with these bytes, the folder may go."""
    files.write_json(folder / _OUTCOME, {"output": output.as_posix(), "md5": lockfile.folder_md5(output)})


def clear_recorded() -> None:
    """Remove the folders of work whose outcome dvc.lock names, unless another process is at it."""
    noted = sorted((workspace() / paths.UNFINISHED).glob(f"*/{_OUTCOME}"))
    if not noted or not paths.LOCK.exists():
        return
    locked = lockfile.outputs(lockfile.parse(files.read_text(paths.LOCK)))
    recorded = {(path, md5) for outputs in locked.values() for path, md5 in outputs.items()}
    for note in noted:
        outcome = files.read_json(note)
        if (outcome["output"], outcome["md5"]) in recorded:
            with contextlib.suppress(Timeout), FileLock(note.parent.with_suffix(".lock"), timeout=0):
                shutil.rmtree(note.parent)

"""Work that a kill may cut off: where its parts lie, who may do it, and when it is no longer needed.

A folder per piece of work, named by the hash of all that it depends on, in the workspace and outside of every DVC
output: DVC empties those before a stage starts, and runs experiments in copies that it throws away. A folder stays
until dvc.lock names what became of it, because a kill between a stage's end and that would cost all of its work.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nmt import files, lockfile, paths
from nmt.errors import UserError
from nmt.tracking.place import workspace

_OUTCOME = "outcome.json"
_FORGOTTEN_SECONDS = 30 * 24 * 3600.0


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


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock, this one included."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def work(stage: str, work_id: str) -> Iterator[Path]:
    """The folder of one piece of work, for this process alone; what a process that was killed left there is in it."""
    folder = workspace() / paths.unfinished(stage, work_id)
    with alone(folder.with_suffix(".lock"), f"another process does the same work ({stage}, {work_id})"):
        folder.mkdir(exist_ok=True)
        yield folder


def has_part(folder: Path) -> bool:
    """Whether a sealed part of the work is there as it was written; one that is damaged is named, and made anew."""
    if not folder.exists():
        return False
    try:
        files.check_seal(folder, sorted(path.name for path in folder.iterdir() if path.name != files.SEAL))
    except UserError as error:
        print(f"{folder} is not used: {error}", file=sys.stderr, flush=True)
        return False
    return True


def done(folder: Path, output: Path) -> None:
    """Note what became of the work: when dvc.lock names this output with these bytes, the folder may go."""
    files.write_json(folder / _OUTCOME, {"output": output.as_posix(), "md5": lockfile.folder_md5(output)})


def clear() -> None:
    """Remove the work whose outcome dvc.lock names, and what nobody has gone on with for a month; not what is held."""
    try:
        locked = lockfile.outputs(lockfile.parse(files.read_text(paths.LOCK))) if paths.LOCK.exists() else {}
    except UserError:  # DVC writes it in place, and another stage's may be at it: the next stage clears up
        return
    recorded = {(path, md5) for outputs in locked.values() for path, md5 in outputs.items()}
    for folder in sorted(path for path in (workspace() / paths.UNFINISHED).glob("*") if path.is_dir()):
        with contextlib.suppress(Timeout, FileNotFoundError), FileLock(folder.with_suffix(".lock"), timeout=0):
            if time.time() - folder.stat().st_mtime > _FORGOTTEN_SECONDS or _outcome(folder) in recorded:
                shutil.rmtree(folder)


def _outcome(folder: Path) -> tuple[str, str] | None:
    """The output that the work has become and its md5; None while it is unfinished, or if the note is damaged."""
    try:
        outcome = files.read_json(folder / _OUTCOME)
        return str(outcome["output"]), str(outcome["md5"])
    except (UserError, KeyError, TypeError):
        return None

"""What a dvc that was killed leaves half-written, and putting it right.

DVC writes two files of its own in place: dvc.lock (for a twentieth of a second after each stage) and the list of its
readers and writers. Cut off there, it refuses both from then on. Nothing is lost with them: what dvc.lock named comes
back from DVC's run cache, and the list is of processes that are no more.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from nmt import files, paths
from nmt.config import parse_yaml
from nmt.errors import UserError
from nmt.repository import git, has

_BUSY = "another dvc is at work in this folder; wait for its end"


def faults() -> Iterator[str]:
    """Which of the two files DVC would refuse."""
    if paths.LOCK.exists() and not _holds(paths.LOCK, _accepted):
        yield f"{paths.LOCK} was cut off while DVC wrote it"
    if paths.DVC_READERS.exists() and not _holds(paths.DVC_READERS, _is_mapping):
        yield f"{paths.DVC_READERS} was cut off while DVC wrote it"


def mend() -> Iterator[str]:
    """Put right what is wrong, and tell it.

    Raises:
        UserError: another dvc runs; what looks cut off may be under way.
    """
    if not any(faults()):
        return
    from dvc.lock import LockError, make_lock

    guards = [str(paths.DVC_LOCK), f"{paths.DVC_READERS}.lock"]
    try:
        with make_lock(guards[0]), make_lock(guards[1]):
            yield from map(_mended, list(faults()))
    except LockError:
        raise UserError(_BUSY) from None


def _mended(fault: str) -> str:
    if not fault.startswith(str(paths.LOCK)):
        paths.DVC_READERS.unlink()
        return f"{fault}: removed"
    committed = git("show", f"HEAD:{paths.LOCK}") if has("cat-file", "-e", f"HEAD:{paths.LOCK}") else ""
    if _accepted(committed):
        files.write_text(paths.LOCK, committed)
        return f"{fault}: took that of the last commit; `dvc repro` brings the rest back from DVC's run cache"
    paths.LOCK.unlink()
    return f"{fault}: removed; `dvc repro` brings all back from DVC's run cache"


def _holds(path: Path, accepted: Callable[[str], bool]) -> bool:
    """Whether DVC would take a file's text; what is not UTF-8 is none."""
    try:
        return accepted(files.read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _accepted(text: str) -> bool:
    """Whether DVC would take this for a dvc.lock."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, paths.LOCK) or {})
    except (UserError, Invalid):
        return False
    return True


def _is_mapping(text: str) -> bool:
    """Whether DVC would take this for its list of readers and writers."""
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False

"""Reading and writing: a file is either the old one or the whole new one, and the same content gives the same bytes."""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nmt.errors import UserError

_DRAFT = ".draft"
_TODO = {
    errno.ENOSPC: "make room on this disk (`dvc gc --workspace` frees what is not used now), then run again",
    errno.EDQUOT: "your quota is used up: make room, then run again",
    errno.EROFS: "the folder is read-only: mount it for writing, then run again",
    errno.EACCES: "the right to is missing: change its owner or mode, then run again",
    errno.EPERM: "the right to is missing: change its owner or mode, then run again",
    errno.ENOENT: "it is not there, or has gone: bring it back, then run again",
    errno.EFBIG: "files may not become that large here (`ulimit -f`): raise the limit, then run again",
}


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; it is replaced in one step when the block ends, and untouched if it fails.

    Raises:
        UserError: the disk is full, the folder read-only or gone, and the like.
    """
    with _refusals_told(path), _drafted(path, tempfile.mkstemp) as draft:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(0o644)  # mkstemp's 0600 would lock colleagues out of a shared cache
        draft.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_write(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, with its line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write one line per item; an item must not hold a line feed."""
    with atomic_write(path) as stream:
        for line in lines:
            assert "\n" not in line, f"a line feed inside a line: {line!r}"
            stream.write(line.encode("utf-8") + b"\n")


def read_text(path: Path) -> str:
    """Read UTF-8 text, or say which file is missing or at which byte it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro` makes it, `dvc pull` fetches it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """Read lines split at line feeds only: U+2028 and the like stay inside a sentence."""
    text = read_text(path)
    return text.removesuffix("\n").split("\n") if text else []


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, in the order of the keys given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say where it is broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON object a line."""
    write_lines(path, (json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values))


def read_json_lines(path: Path) -> list[Any]:
    """Read one JSON object a line."""
    values = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}") from None
    return values


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Write rows of equal keys; the columns are in the first row's order unless they are given."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0] if columns is None else columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_matrices(path: Path, matrices: Sequence[np.ndarray]) -> None:
    """Write matrices of different shapes as one `.npz`: flat float32 `weights` and their `shapes` [N, 2]."""
    shapes = np.array([matrix.shape for matrix in matrices], dtype=np.int32).reshape(-1, 2)
    flat = [np.asarray(matrix, dtype=np.float32).ravel() for matrix in matrices]
    weights = np.concatenate(flat) if flat else np.zeros(0, np.float32)
    with atomic_write(path) as stream:
        np.savez_compressed(stream, weights=weights, shapes=shapes)


def read_matrices(path: Path) -> list[np.ndarray]:
    """Read what `write_matrices` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        weights, shapes = archive["weights"], archive["shapes"]
    bounds = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
    return [weights[bounds[i] : bounds[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place, whole, when the block ends without an error."""
    with _refusals_told(path), _drafted(path, tempfile.mkdtemp) as draft:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        draft.replace(path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, so that a file that was put there survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _drafted(path: Path, make: Callable[..., Any]) -> Iterator[Path]:
    """A new file or folder beside `path` that goes if the block fails.

    It is locked as long as this process lives: by that a later one knows what a killed one left, and removes it, lest
    DVC or git take it for a result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_DRAFT}"):
        with contextlib.suppress(OSError), _locked(left):
            _remove(left)
    made = make(dir=path.parent, prefix=f".{path.name}.", suffix=_DRAFT)
    if isinstance(made, tuple):
        os.close(made[0])
    draft = Path(made[1] if isinstance(made, tuple) else made)
    try:
        with _locked(draft):
            yield draft
    except BaseException:
        _remove(draft)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's or a folder's own lock; BlockingIOError if another process does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder as far as may be; what is gone is gone."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    """What the file system refuses while `path` is written becomes an error for the user; other files' faults pass."""
    try:
        yield
    except OSError as error:
        concerned = None if error.filename is None else Path(os.fsdecode(error.filename))
        if error.errno is None or not (concerned is None or _beside(concerned, path)):
            raise
        raise UserError(told(error, path)) from None


def _beside(concerned: Path, path: Path) -> bool:
    """Whether a file is the one that is written or its draft, or in it, or a folder that it is in."""
    if path.parent not in concerned.parents:
        return concerned in path.parents
    first = concerned.relative_to(path.parent).parts[0]
    return first == path.name or first.startswith(f".{path.name}.")


def told(error: OSError, path: Path | None = None) -> str:
    """What the file system refused, where, and what to do."""
    place = path or (Path(os.fsdecode(error.filename)) if error.filename is not None else None)
    todo = _TODO.get(error.errno or 0, "nothing was changed; put it right and run again")
    return f"{place or 'the file system'}: {error.strerror or error}; {todo}"

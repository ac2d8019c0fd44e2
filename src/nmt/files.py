"""Reading and writing: a file is either the old one or the whole new one, and the same content gives the same bytes.

A folder that a stage writes is sealed: SEAL in it holds the sha256 of each file, in the form of `sha256sum`. Whoever
reads one of these files here is told when a bit of it has changed since. What was put there later is not held to it.
"""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from nmt.errors import UserError

SEAL = "SHA256SUMS"
_SEALED = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>[^/]+)")
_REMEDY = "`dvc checkout` or `dvc pull` restores it, `dvc repro --force` makes it anew"
_SHOWN = 100
_BLOCK_LINES = 1 << 16
_DRAFT = ".draft"
_REMEDIES = {
    errno.ENOSPC: "make room on this disk (`dvc gc --all-commits --all-experiments` may do), then run again",
    errno.EDQUOT: "your quota is used up: make room, then run again",
    errno.EROFS: "the folder is read-only: mount it for writing, then run again",
    errno.EACCES: "permission denied: change its owner or mode, then run again",
    errno.EPERM: "permission denied: change its owner or mode, then run again",
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


def read_bytes(path: Path) -> bytes:
    """Read a file, or say why not; one that has changed since its folder was sealed is a UserError."""
    with _failures_told(path):
        content = path.read_bytes()
    _hold_to_seal(path, lambda: hashlib.sha256(content).hexdigest())
    return content


def read_text(path: Path) -> str:
    """Read UTF-8 text, or say which file is missing or at which byte it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """Read lines split at line feeds only: U+2028 and the like stay inside a sentence."""
    text = read_text(path)
    return text.removesuffix("\n").split("\n") if text else []


def line_blocks(path: Path) -> Iterator[list[str]]:
    """The lines of `read_lines`, some at a time, for a file that need not fit into memory."""
    try:
        with _failures_told(path):
            check_file(path)
            with path.open("rb") as stream:
                while lines := list(islice(stream, _BLOCK_LINES)):
                    yield b"".join(lines).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8") from None


def each_line(path: Path) -> Iterator[str]:
    """The lines of `read_lines`, one by one."""
    return chain.from_iterable(line_blocks(path))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, in the order of the keys given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say where it is broken."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, origin: str) -> Any:
    """Parse JSON that came from `origin`; NaN, numbers of thousands of digits and endless nesting are none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could not be written again
    except json.JSONDecodeError as error:
        raise UserError(f"{origin} is not valid JSON: {error}") from None
    except UnicodeEncodeError:
        raise UserError(f"{origin} is not valid JSON: it holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise UserError(f"{origin} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{origin} is not valid JSON: {' '.join(str(error).split(';')[0].split())}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:_SHOWN]} is too large a number")
    return number


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON object a line."""
    write_lines(path, (json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values))


def read_json_lines(path: Path) -> list[Any]:
    """Read one JSON object a line."""
    return [parse_json(line, f"{path}, line {number}") for number, line in enumerate(read_lines(path), start=1)]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Write rows of equal keys; the columns are in the first row's order unless they are given."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0] if columns is None else columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a table that has at least these columns, each number as it is written there."""
    return parse_csv(read_text(path), str(path), columns)


def parse_csv(text: str, origin: str, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Parse a table with a header that came from `origin`; a row of more or fewer cells is a UserError."""
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise UserError(f"{origin} is not CSV: {error}") from None
    if missing := [column for column in columns if column not in header]:
        raise UserError(f"{origin} has no column {', '.join(missing)}; {_REMEDY}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(f"{origin}, row {number}: {len(row)} cells instead of {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def write_matrices(path: Path, matrices: Sequence[np.ndarray]) -> None:
    """Write matrices of different shapes as one `.npz`: flat float32 `weights` and their `shapes` [N, 2]."""
    shapes = np.array([matrix.shape for matrix in matrices], dtype=np.int32).reshape(-1, 2)
    flat = [np.asarray(matrix, dtype=np.float32).ravel() for matrix in matrices]
    weights = np.concatenate(flat) if flat else np.zeros(0, np.float32)
    with atomic_write(path) as stream:
        np.savez_compressed(stream, weights=weights, shapes=shapes)


def read_matrices(path: Path) -> list[np.ndarray]:
    """Read what `write_matrices` wrote; anything else is a UserError."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as archive:
            weights, shapes = archive["weights"], archive["shapes"]
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy name a damaged archive in a dozen ways
        raise UserError(f"{path} holds no matrices ({' '.join(str(error).split())[:_SHOWN]}); {_REMEDY}") from None
    fits = weights.dtype == np.float32 and weights.ndim == 1 and shapes.dtype == np.int32 and shapes.shape[1:] == (2,)
    if not fits or shapes.min(initial=0) < 0 or sum(map(math.prod, shapes.tolist())) != len(weights):
        raise UserError(f"{path} holds matrices of other shapes than it says; {_REMEDY}")
    bounds = np.concatenate([[0], np.cumsum(shapes.prod(axis=1, dtype=np.int64))])
    return [weights[bounds[i] : bounds[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with _failures_told(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def fresh_folder(path: Path, *, sealed: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place, whole and sealed, when the block ends without an error.

    What git carries needs no seal: git sees each change.
    """
    if path.is_symlink():
        raise UserError(
            f"{path} is a symbolic link, and a folder is to take its place: remove the link (what it leads to stays), "
            "then run again; for room on another disk link the folder above it"
        )
    with _refusals_told(path), _drafted(path, tempfile.mkdtemp) as draft:
        yield draft
        if sealed:
            seal(draft)
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
    with contextlib.ExitStack() as held:
        draft = _locked_draft(path, make, held)
        try:
            yield draft
        except BaseException:
            _remove(draft)
            raise


def _locked_draft(path: Path, make: Callable[..., Any], held: contextlib.ExitStack) -> Path:
    """Make a draft and lock it; one that another process took for a killed one's, before it was locked, is given up."""
    while True:
        made = make(dir=path.parent, prefix=f".{path.name}.", suffix=_DRAFT)
        if isinstance(made, tuple):
            os.close(made[0])
        draft = Path(made[1] if isinstance(made, tuple) else made)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            held.enter_context(_locked(draft))
            if draft.exists():
                return draft


def seal(folder: Path) -> None:
    """Write the sha256 of the folder's files; `sha256sum --check SHA256SUMS` holds them to it, too."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SEAL)
    write_text(folder / SEAL, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def check_seal(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder whose seal does not name each of these files, or of which one has changed, or gone, since."""
    sealed = _seal_of(folder)
    for name in names:
        if sealed is None or name not in sealed:
            raise UserError(f"{folder / SEAL} does not name {name}: an incomplete or older folder; {_REMEDY}")
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder of which a file has changed, or gone, since it was sealed."""
    for name in _seal_of(folder) or ():
        check_file(folder / name)


def check_file(path: Path) -> None:
    """Refuse a file that has changed since its folder was sealed: for those that are mapped rather than read."""
    _hold_to_seal(path, lambda: sha256(path))


def _hold_to_seal(path: Path, digest: Callable[[], str]) -> None:
    expected = (_seal_of(path.parent) or {}).get(path.name)
    if expected is not None and expected != digest():
        raise UserError(f"{path} is not as it was written (see {SEAL} beside it): damaged or edited; {_REMEDY}")


def _seal_of(folder: Path) -> dict[str, str] | None:
    """The sha256 of the folder's files by name; None for a folder without a seal."""
    path = folder / SEAL
    if not path.exists():
        return None
    with _failures_told(path):
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    matches = [_SEALED.fullmatch(line) for line in lines[:-1]]
    names = [match["name"] for match in matches if match]
    if lines[-1] or not all(matches) or names != sorted(set(names)):
        raise UserError(f"{path} is damaged: its lines must be a sha256, two spaces and a name, by name; {_REMEDY}")
    return {match["name"]: match["sha256"] for match in matches if match}


@contextlib.contextmanager
def _failures_told(path: Path) -> Iterator[None]:
    """What the file system refuses is a UserError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro` makes it, `dvc pull` fetches it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


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
    remedy = _REMEDIES.get(error.errno or 0, "nothing was changed; put it right and run again")
    return f"{place or 'the file system'}: {error.strerror or error}; {remedy}"

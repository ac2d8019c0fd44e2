"""Reading and writing: a file is either the old one or the whole new one, and the same content gives the same bytes."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from nmt.errors import UserError

_BLOCK_LINES = 1 << 16


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; it is replaced in one step when the block ends, and untouched if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would lock colleagues out of a shared cache
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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


def line_blocks(path: Path) -> Iterator[list[str]]:
    """The lines of `read_lines`, some at a time, for a file that need not fit into memory."""
    try:
        with path.open("rb") as stream:
            while lines := list(islice(stream, _BLOCK_LINES)):
                yield b"".join(lines).decode("utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro` makes it, `dvc pull` fetches it") from None
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
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0] if columns is None else columns)
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as buffer:
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        buffer.seek(0)
        write_text(path, buffer.read())


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
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise

"""Lines of text from a file or from standard input, as they come."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from nmt.errors import UserError

Item = TypeVar("Item")
BLOCK = 2000
"""Lines that are worked on together: many, to have batches of similar lengths; not all, to begin answering soon."""


def file_lines(path: Path) -> list[str]:
    """All lines of a text file."""
    try:
        with path.open("rb") as stream:
            return list(_decoded(stream, str(path)))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def standard_input() -> Iterator[str]:
    """The lines of standard input, each as soon as it is there."""
    if sys.stdin is None:
        raise UserError("standard input is closed; give lines as arguments or name a file")
    return _decoded(sys.stdin.buffer, "standard input")


def blocks(lines: Iterable[Item]) -> Iterator[list[Item]]:
    """The lines in blocks of BLOCK; single ones when somebody types them and waits for each answer."""
    typed = not isinstance(lines, Sequence) and sys.stdin.isatty()
    size = 1 if typed else BLOCK
    remaining = iter(lines)
    while block := list(itertools.islice(remaining, size)):
        yield block


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    """UTF-8 lines, split at line feeds only, without line ends and byte order mark."""
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}, line {number} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
        text = text.removesuffix("\n").removesuffix("\r")
        yield text.removeprefix("\ufeff") if number == 1 else text

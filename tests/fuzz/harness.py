"""What the properties share: how many examples, what an error must look like, how content is damaged."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import hypothesis
from hypothesis import strategies as st

from nmt.errors import UserError

EXAMPLES = int(os.environ.get("NMT_FUZZ", "0"))
"""Of every property, others each time; set by `make fuzz`. Without it, a few, always the same."""
REFUSED = object()
"""What `attempt` returns for bad input that was told."""
_SECONDS = 60.0
_LONGEST_MESSAGE = 8_000

Result = TypeVar("Result")


def fuzzed(few: int) -> hypothesis.settings:
    """So many examples in the tests, or EXAMPLES."""
    return hypothesis.settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )


def some(places: range) -> list[int]:
    """All places by `make fuzz`, else at most a dozen, evenly spread."""
    return list(places) if EXAMPLES else list(places)[:: max(1, len(places) // 12)]


def attempt(work: Callable[..., Result], *arguments: Any) -> Result | Any:
    """What the work returns, or REFUSED if it ends in an error for the user; anything else, or a hang, gets out."""
    with in_time():
        try:
            return work(*arguments)
        except UserError as error:
            assert_clear(str(error))
            return REFUSED


def overwrite(path: Path, content: bytes) -> None:
    """Give a file other content, in its place: one that is emptied first is brought to disk when it is closed."""
    with path.open("r+b") as stream:
        stream.write(content)
        stream.truncate()


def assert_clear(message: str) -> None:
    """An error can be printed, says something, and does not fill the screen."""
    assert message.strip()
    assert len(message) <= _LONGEST_MESSAGE, f"{len(message)} characters: {message[:300]}"
    message.encode()
    assert "Traceback" not in message


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """What takes longer hangs."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {_SECONDS:g} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content that was cut, had a bit flipped, or a piece of it replaced, repeated, or left out."""
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "flip", "replace", "insert", "leave out", "double"]))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return flipped(content, place, draw(st.integers(0, 7)))
    if kind == "double":
        return content[:place] + content
    end = min(len(content), place + draw(st.integers(1, 16)))
    piece = b"" if kind == "leave out" else draw(st.binary(min_size=1, max_size=16))
    return content[:place] + piece + (content[place:] if kind == "insert" else content[end:])


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Content with one bit changed."""
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :] if content else content

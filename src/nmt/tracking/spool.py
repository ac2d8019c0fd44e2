"""Live points of a training on disk, written before they are sent: what a tracker misses is still there.

One file per training in the workspace, append-only, a JSON object a line: time in milliseconds since 1970, step, the
metrics of that step under the names that they have in MLflow, and a checksum of all that: a flipped bit must not become
a point that was never measured. The file stays when all is sent: a store that was lost is filled from it again.
"""

import contextlib
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nmt import paths
from nmt.tracking import place
from nmt.tracking.values import Point

_LINE = re.compile(rb'(?P<entry>.*), "crc32": "(?P<crc32>[0-9a-f]{8})"}')

log = logging.getLogger(__name__)


def place_of(training_id: str) -> Path:
    """The file of one training; also for a stage that DVC runs in a copy of the workspace."""
    return place.workspace() / paths.live_points(training_id)


def read(path: Path, start: int = 0) -> tuple[list[Point], int]:
    """The points in whole lines from the byte `start` on, and the byte behind them; none where there is no file."""
    if not path.exists():
        return [], start
    with path.open("rb") as stream:
        stream.seek(start)
        whole = stream.read().rpartition(b"\n")
    content = whole[0] + whole[1]
    entries = [_entry(line) for line in content.split(b"\n")[:-1]]
    if damaged := entries.count(None):
        log.warning("tracking: %s: damaged lines are passed over: %d of %d", path, damaged, len(entries))
    return [point for entry in entries if entry for point in _points(entry)], start + len(content)


def _line(entry: Mapping[str, Any]) -> bytes:
    """An entry, its checksum as its last member."""
    content = json.dumps(entry).encode("ascii")
    return content[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(content)


def _entry(line: bytes) -> dict[str, Any] | None:
    """What `_line` wrote; None where a crash of the machine, or a bad disk, left something else."""
    match = _LINE.fullmatch(line)
    content = match["entry"] + b"}" if match else b""
    if not match or int(match["crc32"], 16) != zlib.crc32(content):
        return None
    entry: dict[str, Any] = json.loads(content)
    return entry


def _points(entry: Mapping[str, Any]) -> Iterator[Point]:
    for name, value in entry["metrics"].items():
        yield Point(name, entry["step"], value, entry["time"])


class Writer:
    """Appends points; a disk that is full ends the spool, not the training."""

    def __init__(self, path: Path) -> None:
        self._last: dict[str, int] = {}
        self._stream: IO[bytes] | None = None
        with self._failures_told():
            path.parent.mkdir(parents=True, exist_ok=True)
            points, size = read(path)
            self._last = {point.name: point.step for point in points}
            self._stream = path.open("ab", buffering=0)
            self._stream.truncate(size)  # a process that was killed may have left half a line

    def write(self, time: int, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step; a step that the file has is not repeated when a resumed training repeats it."""
        new = {name: value for name, value in metrics.items() if step > self._last.get(name, -1)}
        if new and self._stream is not None:
            with self._failures_told():
                self._stream.write(_line({"time": time, "step": step, "metrics": new}))
            self._last.update(dict.fromkeys(new, step))

    def close(self) -> None:
        """No more points."""
        if self._stream is not None:
            self._stream.close()

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.warning("tracking: no live points from here on: %s", error)
            self.close()
            self._stream = None

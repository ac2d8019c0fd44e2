"""Live points of a training on disk, written before they are sent: what a tracker misses is still there.

One file per training in the workspace, append-only, a JSON object a line: time in milliseconds since 1970, step, and
the metrics of that step under the names that they have in MLflow. It stays when all is sent: a store that was lost is
filled from it again.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from nmt import paths
from nmt.tracking import place
from nmt.tracking.values import Point

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
    return [point for line in content.splitlines() for point in _points(line)], start + len(content)


def _points(line: bytes) -> Iterator[Point]:
    """The points of one line; none where a crash of the machine left something else."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
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
                self._stream.write(json.dumps({"time": time, "step": step, "metrics": new}).encode("ascii") + b"\n")
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

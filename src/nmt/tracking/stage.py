"""What a stage calls: its results go to MLflow through a process of their own, for which it never waits in vain."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import nmt
from nmt.errors import UserError
from nmt.tracking import place, spool
from nmt.tracking.parts import CURVE

SILENCE_SECONDS = 2.0
"""A store that does not answer for so long is given up."""
TRAINING_SECONDS = 120.0
"""The longest wait at the end of a training, for a store that does answer: it gets curves and two small files."""
PUBLISH_SECONDS = 900.0
"""The same where a model may be uploaded."""
FINISHED = b"finished\n"
_LOOK_SECONDS = 0.25

log = logging.getLogger(__name__)


class LiveCurves:
    """What a training logs to: a file, from which another process sends; `log` takes microseconds."""

    def __init__(self, writer: spool.Writer | None) -> None:
        self._writer = writer

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send numbers of one update; those of the dev set join the curves that history.csv fills up."""
        if self._writer is not None:
            named = {_live_name(name): float(value) for name, value in metrics.items()}
            self._writer.write(int(time.time() * 1000), step, named)


@contextlib.contextmanager
def live_training(variant: str, seed: int, training_id: str) -> Iterator[LiveCurves]:
    """Send a training's points while the block runs, and its files when the block has ended without an error.

    A server that is down, hangs or dies costs the training nothing, and its end a few seconds: all points are in the
    spool, all else is in the files, and `nmt publish` sends what is missing.
    """
    if reason := place.switched_off():
        log.info("tracking: %s", reason)
        yield LiveCurves(None)
        return
    writer = spool.Writer(spool.place_of(training_id))
    sender = _start("training", variant, str(seed))
    farewell = b""
    try:
        yield LiveCurves(writer)
        farewell = FINISHED
    finally:
        writer.close()
        _end(sender, farewell, TRAINING_SECONDS)


def publish_model(variant: str, seed: int) -> None:
    """Log whatever of this result is on disk and not in MLflow yet; never fails and never waits for a silent server.

    Every stage of a model ends with it.
    """
    _publish("model", variant, str(seed))


def publish_comparison() -> None:
    """Log the comparison of all models as a run of its own; never fails and never waits for a silent server."""
    _publish("comparison")


def _publish(*arguments: str) -> None:
    if reason := place.switched_off():
        log.info("tracking: %s", reason)
        return
    try:
        place.probe(place.tracking_uri(), SILENCE_SECONDS)
    except UserError as error:
        log.warning("tracking: %s; `nmt publish` makes it good", error)
        return
    _end(_start(*arguments), FINISHED, PUBLISH_SECONDS)


def _start(*arguments: str) -> "subprocess.Popen[bytes] | None":
    """The sender, on the code that runs here; a session of its own keeps Ctrl-C from it: it ends when we do."""
    source = str(Path(nmt.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "nmt.tracking.sender", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        log.warning("tracking: %s; `nmt publish` makes it good", error)
        return None


def _end(sender: "subprocess.Popen[bytes] | None", farewell: bytes, seconds: float) -> None:
    """Let the sender finish as long as the store answers, and tell what it told; no failure gets out."""
    if sender is None:
        return
    assert sender.stdin is not None
    assert sender.stdout is not None
    with sender:
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and told why
                sender.stdin.write(farewell)
                sender.stdin.close()
            _wait(sender, seconds)
        except (UserError, OSError) as error:
            log.warning("tracking: %s; `nmt publish` makes it good", error)
        else:
            _relay(sender.stdout.read().decode("utf-8", "replace"))
        finally:
            sender.kill()


def _wait(sender: "subprocess.Popen[bytes]", seconds: float) -> None:
    uri, deadline = place.tracking_uri(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if status := sender.wait(_LOOK_SECONDS):
                raise place.Unavailable(f"the sender ended with {status}")
            return
        if place.is_server(uri):  # a database of our own is there, but busy when the sender writes
            place.probe(uri, SILENCE_SECONDS)
    raise place.Unavailable(f"not done after {seconds:.0f} seconds")


def _relay(text: str) -> None:
    """Log what the sender logged, at its levels."""
    for line in text.splitlines():
        level, _, message = line.partition(" ")
        log.log(logging.getLevelNamesMapping().get(level, logging.WARNING), "%s", message)


def _live_name(name: str) -> str:
    """`dev_loss` is the very curve of history.csv; what no file holds is a `live/` one."""
    return f"{CURVE}{name}" if name.startswith("dev_") else f"live/{name}"

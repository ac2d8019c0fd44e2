"""The process that talks to MLflow for a stage, so that the stage waits for nothing and can end it at any moment.

    python -m nmt.tracking.sender training VARIANT SEED     points while they come in, files at the end
    python -m nmt.tracking.sender model VARIANT SEED        files
    python -m nmt.tracking.sender comparison                files

Standard input tells when the stage is done: its end, after `finished` if there are files to publish. Standard output
takes log records, a line each: LEVEL message.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

from nmt.tracking import place, spool
from nmt.tracking.parts import CURVE
from nmt.tracking.publish import find_or_create, one_line, published_comparison, published_model
from nmt.tracking.result import Result
from nmt.tracking.stage import FINISHED
from nmt.tracking.store import Curves, open_store

SEND_SECONDS = 2.0
PAUSE_SECONDS = 60.0
"""The longest pause between two tries while the store does not answer."""
TIMEOUT = "4"
"""Seconds that a request of a training may take: the stage waits for the last of them."""

log = logging.getLogger("nmt.tracking")


def main() -> None:
    """Do what the command line says; what fails is told in one line."""
    what, *model = sys.argv[1:]
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    with _failures_told():
        if what == "comparison":
            published = published_comparison()
        elif what == "model" or _sent_while_training(model[0], int(model[1])):
            published = published_model(model[0], int(model[1]))
        else:
            published = None
        if published:
            log.log(logging.WARNING if published.warning else logging.INFO, "tracking: %s", published)


def _sent_while_training(variant: str, seed: int) -> bool:
    """Send points until the stage is done; whether it has finished its training."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT)
    done = _Done()
    done.start()
    points = _Points(variant, seed)
    pause, last = 0.0, False
    while not last:
        last = done.event.wait(pause)
        try:
            points.send()
            pause = SEND_SECONDS
        except Exception:
            if last:
                raise
            pause = min(2 * pause + SEND_SECONDS, PAUSE_SECONDS)
    return done.finished


class _Points:
    """The points of one training's spool, sent as far as the store takes them."""

    def __init__(self, variant: str, seed: int) -> None:
        self._result = Result.present(variant, seed)
        self._file = spool.place_of(self._result.training_id)
        self._sent = 0
        self._curves: Curves | None = None

    def send(self) -> None:
        """Send what has come in; on a failure it is all sent again, and the store keeps each point once."""
        points, end = spool.read(self._file, self._sent)
        if self._curves is None:
            with place.lock():
                store = open_store(self._result.params.tracking.experiment)
                self._curves = Curves(store, find_or_create(store, self._result))
        # A curve that history.csv holds too gets the time that publishing gives it: whoever sends it, it is one point.
        self._curves.add(point._replace(time=None) if point.name.startswith(CURVE) else point for point in points)
        self._sent = end


class _Done(threading.Thread):
    """Waits for the end of standard input, which comes also when the stage is killed."""

    def __init__(self) -> None:
        super().__init__(name="done", daemon=True)
        self.event = threading.Event()
        self.finished = False

    def run(self) -> None:
        self.finished = sys.stdin.buffer.read() == FINISHED
        self.event.set()


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
    """Whatever happens is one line of the log: a result is on disk and right."""
    try:
        yield
    except Exception as error:
        log.warning("tracking: %s; `nmt publish` makes it good", one_line(error))
        log.debug("tracking failed", exc_info=True)


if __name__ == "__main__":
    main()

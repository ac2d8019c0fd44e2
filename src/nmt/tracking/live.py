"""Curves while a training runs: a thread sends them, and the training never waits for it."""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nmt.tracking import place
from nmt.tracking.parts import CURVE
from nmt.tracking.publish import find_or_create, one_line
from nmt.tracking.result import Result
from nmt.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

SEND_SECONDS = 2.0
GOODBYE_SECONDS = 5.0
FAILURES = 5  # batches refused in a row before the rest is left to `nmt publish`

log = logging.getLogger(__name__)
_Entry = tuple[int, int, dict[str, float]]  # milliseconds since 1970, update, metrics


class LiveCurves:
    """What a training logs to; `log` costs a microsecond, whatever the server does."""

    def __init__(self) -> None:
        self._entries: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._closed = threading.Event()  # the block has ended: send what is left
        self._gone = threading.Event()  # nobody sends any more

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send numbers of one update; those of the dev set join the curves that history.csv fills up."""
        if not self._gone.is_set():
            self._entries.put((int(time.time() * 1000), step, dict(metrics)))

    def _run(self, variant: str, seed: int) -> None:
        """The thread: find the run, send until the block ends, and let no failure out."""
        try:
            result = Result.present(variant, seed)
            with place.lock():
                store = open_store(result.params.tracking.experiment)
                run = find_or_create(store, result)
            if run.info.status != "FINISHED":  # a forced repetition of a finished result adds nothing
                self._send_until_closed(_Sender(store, run))
        except Exception as error:  # the curves of the dev set are in history.csv
            if not self._gone.is_set():
                log.warning("tracking: no live curves: %s; `nmt publish` adds them later", one_line(error))
        finally:
            self._gone.set()

    def _send_until_closed(self, sender: "_Sender") -> None:
        pending: list[_Entry] = []
        failures, last = 0, False
        while not last:
            last = self._closed.wait(SEND_SECONDS)
            pending += self._drain()
            if self._gone.is_set():
                return
            try:
                sender.send(pending)
            except Exception:
                failures += 1
                if last or failures == FAILURES:
                    raise
            else:
                pending, failures = [], 0

    def _drain(self) -> list[_Entry]:
        entries = []
        while not self._entries.empty():
            entries.append(self._entries.get())
        return entries


class _Sender:
    """Writes points to one run, each curve from where it stands: a resumed training repeats some updates."""

    def __init__(self, store: Store, run: "Run") -> None:
        self._store, self._run = store, run
        self._last: dict[str, int] = {}

    def send(self, entries: list[_Entry]) -> None:
        """Log the entries.

        A point that history.csv will hold bears the time that `publish_model` gives it: should both send it, the store
        sees one point.
        """
        from mlflow.entities import Metric

        points = []
        for moment, step, metrics in entries:
            for name, value in ((_live_name(key), value) for key, value in metrics.items()):
                if step > self._last_step(name):
                    time_stamp = self._run.info.start_time if name.startswith(CURVE) else moment
                    points.append(Metric(name, value, time_stamp, step))
        self._store.log_metrics(self._run.info.run_id, points)

    def _last_step(self, name: str) -> int:
        """The last step that the run had before this process; asked once per curve."""
        if name not in self._last:
            known = name in self._run.data.metrics
            history = self._store.client.get_metric_history(self._run.info.run_id, name) if known else []
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]


def _live_name(name: str) -> str:
    """`dev_loss` is the very curve of history.csv; what no file holds is a `live/` one."""
    if name.startswith("dev_"):
        return f"{CURVE}/{name}"
    return name if name.startswith("live/") else f"live/{name}"


@contextmanager
def live_curves(variant: str, seed: int) -> Iterator[LiveCurves]:
    """Send curves from a thread while the block runs; at its end wait five seconds at most.

    A server that is down, hangs or dies costs the training nothing: what was not sent, `publish_model` adds from
    history.csv. Numbers that are in no file (tokens per second, the loss of single updates) are then lost.
    """
    curves = LiveCurves()
    if reason := place.switched_off():
        log.info("tracking: %s", reason)
        curves._gone.set()
        yield curves
        return
    thread = threading.Thread(target=curves._run, args=(variant, seed), name="live-curves", daemon=True)
    thread.start()
    try:
        yield curves
    finally:
        curves._closed.set()
        thread.join(GOODBYE_SECONDS)
        if not curves._gone.is_set():
            curves._gone.set()
            log.warning("tracking: live points were not sent in time; the curves of history.csv follow with the result")

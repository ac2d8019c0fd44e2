"""The same work in several processes: results come in the order of the pieces, and never depend on their number."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from nmt.errors import UserError

PROCESSES = "NMT_PROCESSES"
"""Environment variable: how many processes at most; each takes memory of its own."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def in_order(function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """`map` over all cores, with two pieces a process under way, however many there are.

    `function` and its results must pickle. A single piece, or a single process, is done here.
    """
    remaining = iter(pieces)
    first = list(islice(remaining, 2))
    processes = process_count()
    if len(first) < 2 or processes == 1:
        yield from map(function, chain(first, remaining))
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads as they stand
    with ProcessPoolExecutor(processes, context, initializer=_live_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for piece in chain(first, remaining):
                waiting.append(pool.submit(function, piece))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                f"a process was killed from outside, most likely for want of memory; set {PROCESSES}, now {processes}, "
                "to a smaller number"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def process_count() -> int:
    """The cores that this process may use, or fewer by NMT_PROCESSES."""
    text = os.environ.get(PROCESSES, str(cores()))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UserError(f"{PROCESSES} is {text!r}; write a number of processes, such as 2")
    return int(text)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _live_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it has gone, even if it was killed: nobody else would end a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

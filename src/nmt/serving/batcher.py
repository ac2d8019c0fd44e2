"""Sentences of different requests, translated together: a model does many at once in little more time than one."""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nmt.errors import UserError
from nmt.serving.worker import Answer, Failure, Search, Worker

_LOOK_AFTER = 1.0
"""Seconds after which a worker without work is looked after."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """What a batch, and what waits for one, may hold."""

    batch: int
    """Sentences of a batch."""
    characters: int
    """Characters of a batch, so that it takes bounded time; a longer sentence goes alone."""
    waiting: int
    """Sentences that may wait."""
    wait: float
    """Seconds that a sentence waits for company while a worker is free."""
    seconds: float
    """After so many seconds a batch is given up, and its worker's process replaced."""


@dataclass
class Counts:
    """What has happened since the start."""

    sentences: int = 0
    batches: int = 0
    refused: int = 0
    """Requests that found the queue full."""
    abandoned: int = 0
    """Sentences that nobody waited for any more."""
    busy: float = 0.0
    """Seconds that workers translated."""


class Busy(Exception):
    """The queue is full."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(eq=False)
class _Job:
    """A sentence that waits."""

    source: str
    search: Search
    since: float
    answer: asyncio.Future[Answer | Failure] = field(repr=False)


class Batcher:
    """A queue before the workers; lives in one event loop."""

    def __init__(self, workers: Sequence[Worker], sizes: Sizes) -> None:
        self.workers, self.sizes, self.counts = workers, sizes, Counts()
        self._jobs: deque[_Job] = deque()
        self._arrived, self._forming = asyncio.Event(), asyncio.Lock()
        self._threads = ThreadPoolExecutor(len(workers), thread_name_prefix="worker")  # each waits for its process
        self._drives: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Sentences in the queue."""
        return len(self._jobs)

    def open(self) -> None:
        """Begin to translate."""
        self._drives = [asyncio.create_task(self._drive(worker)) for worker in self.workers]

    async def close(self) -> None:
        """Stop, whatever still waits."""
        for drive in self._drives:
            drive.cancel()
        for worker in self.workers:
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown)

    async def translate(self, sources: Sequence[str], search: Search) -> list[Answer | Failure]:
        """An answer for each source, in order; cancelled, what waits is forgotten.

        Raises:
            Busy: there is no room for so many.
        """
        loop = asyncio.get_running_loop()
        if len(self._jobs) + len(sources) > self.sizes.waiting:
            self.counts.refused += 1
            raise Busy(f"{len(self._jobs)} sentences are waiting already; try again later", self._backlog_seconds())
        jobs = [_Job(source, search, loop.time(), loop.create_future()) for source in sources]
        self._jobs.extend(jobs)
        self._arrived.set()
        try:
            return await asyncio.gather(*(job.answer for job in jobs))
        finally:
            if abandoned := [job for job in jobs if job.answer.cancelled()]:
                self.counts.abandoned += len(abandoned)
                self._jobs = deque(job for job in self._jobs if not job.answer.done())

    def _backlog_seconds(self) -> int:
        """How long, by experience, it takes until the queue is empty."""
        seconds = self.counts.busy / max(self.counts.sentences, 1)
        return max(1, math.ceil(len(self._jobs) * seconds / len(self.workers)))

    async def _drive(self, worker: Worker) -> None:
        """Give a worker batch after batch; one whose process has ended gets another."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if not worker.ready:
                    await loop.run_in_executor(self._threads, worker.start)
                async with asyncio.timeout(_LOOK_AFTER):
                    async with self._forming:  # two free workers would each take half of what belongs together
                        batch = await self._next_batch()
            except TimeoutError:
                continue
            except Exception as error:
                log.error("%s", error, exc_info=not isinstance(error, UserError))
                await asyncio.sleep(_LOOK_AFTER)
                continue
            begin = loop.time()
            answers = await loop.run_in_executor(self._threads, self._answers, worker, batch)
            self.counts.batches += 1
            self.counts.sentences += len(batch)
            self.counts.busy += loop.time() - begin
            for job, answer in zip(batch, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)

    def _answers(self, worker: Worker, batch: Sequence[_Job]) -> Sequence[Answer | Failure]:
        """An answer for each; a fault of ours costs this batch and the worker's process, and not the worker."""
        try:
            return worker.translate([job.source for job in batch], batch[0].search, self.sizes.seconds)
        except Exception:
            log.exception("a batch cannot be translated")
            worker.stop()
            return [Failure("this cannot be translated: an error of the program, which is in its log")] * len(batch)

    async def _next_batch(self) -> list[_Job]:
        """The oldest sentence and those that go with it, once they are many enough or it has waited long enough."""
        while True:
            while not self._jobs:
                await self._arrival()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._jobs[0].since + self.sizes.wait):
                    while len(self._jobs) < self.sizes.batch:
                        await self._arrival()
            if batch := self._take():
                return batch

    async def _arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    def _take(self) -> list[_Job]:
        """Take a batch out of the queue, the oldest first; what is searched for otherwise stays where it is."""
        batch: list[_Job] = []
        rest: deque[_Job] = deque()
        characters = 0
        for job in self._jobs:
            fits = len(batch) < self.sizes.batch and characters + len(job.source) <= self.sizes.characters
            if not batch or (fits and job.search == batch[0].search):
                batch.append(job)
                characters += len(job.source)
            else:
                rest.append(job)
        self._jobs = rest
        return batch

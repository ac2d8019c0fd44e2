"""Large synthetic corpora, and what a process that works on them costs. Memory is measured on Linux only."""

import dataclasses
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from tests.project import copy_sources, edit_yaml

PARAMS: dict[str, object] = {
    "corpus": {"name": "local", "source": "de", "target": "en"},
    "tokenize.source.character_coverage": 1.0,
}
LETTERS = ("abcdefghijklmnopqrstuvwxyzäöüß", "abcdefghijklmnopqrstuvwxyz")
WORDS = 30_000
COPIES = 0.3
AT_ONCE = 100_000
SAMPLE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a process and its children took."""

    seconds: float
    processor_seconds: float
    anonymous_mib: float
    """The peak of their RssAnon (/proc/PID/status): memory that is neither mapped from a file nor shared."""


def synthetic_lines(count: int) -> Iterator[bytes]:
    """Tab-separated pairs of drawn words, some thousands at a time.

    Words follow Zipf's law, sentences have 3 to 20. COPIES of the pairs are copies of one before them, which is none
    itself: of a copy's own words nothing would be left for another copy to repeat.
    """
    random = np.random.default_rng(1)
    words = [_words(random, letters) for letters in LETTERS]
    weights = np.cumsum(1.0 / np.arange(2, WORDS + 2))
    for begin in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - begin)
        lengths = random.integers(3, 21, size)
        ends = np.cumsum(lengths)
        sides = []
        for own in words:
            drawn = own[np.searchsorted(weights, random.random(ends[-1]) * weights[-1])].tolist()
            sides.append([" ".join(drawn[e - n : e]).capitalize() for e, n in zip(ends, lengths, strict=True)])
        yield "".join(f"{sides[0][row]}.\t{sides[1][row]}.\n" for row in _origins(random, size).tolist()).encode()


def _origins(random: np.random.Generator, size: int) -> np.ndarray:
    """Whose words each row has: its own, or, for exactly COPIES of them, those of an earlier row with its own."""
    is_copy = np.zeros(size, bool)
    is_copy[1 + random.permutation(size - 1)[: round(COPIES * size)]] = True
    originals = np.flatnonzero(~is_copy)
    before = np.cumsum(~is_copy)  # that many of `originals` stand up to here; the first row is one
    return np.where(is_copy, originals[(random.random(size) * before).astype(int)], np.arange(size))


def _words(random: np.random.Generator, letters: str) -> np.ndarray:
    lengths = random.integers(2, 11, WORDS)
    return np.array(["".join(random.choice(list(letters), length)) for length in lengths], object)


def write_project(folder: Path, pairs: int) -> None:
    """A copy of the project in which a synthetic corpus is the user's own."""
    copy_sources(folder)
    digest = hashlib.sha256()
    with (folder / "data" / "local.tsv").open("wb") as stream:
        for lines in synthetic_lines(pairs):
            stream.write(lines)
            digest.update(lines)
    pin = {"path": "data/local.tsv", "sha256": digest.hexdigest()}
    entry = {"local.languages": ["de", "en"], "local.layout.columns": ["de", "en"], "local.files": {"local.tsv": pin}}
    edit_yaml(folder / "data" / "corpora.yaml", entry)
    edit_yaml(folder / "params.yaml", PARAMS)


def anonymous_bytes(process: psutil.Process) -> int:
    """RssAnon of a process and its children, now; nothing of one that has just ended."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def measured(arguments: Sequence[str], folder: Path, **environment: str) -> Cost:
    """Run Python in the project; a failure is a CalledProcessError."""
    command = [sys.executable, *arguments]
    surroundings = os.environ | {"PYTHONPATH": "src", "NMT_TRACKING": "off"} | environment
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=subprocess.DEVNULL)
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            try:
                peak = max(peak, anonymous_bytes(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)  # with the processor time of children, which Popen does not tell
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    ended.set()
    sampler.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak / 2**20)

"""Seconds and memory of the data stages and of training, on synthetic corpora of growing size.

    python benchmarks/pipeline.py 10000 100000 1000000

Writes a German-English corpus of drawn words (Zipf's law, 3 to 20 words a sentence; 30 of 100 lines are copies of
others) into a copy of the project in a temporary folder, and runs fetch, prepare and tokenize there as DVC would: one
process each. Then it trains the attention model for some updates, from the start of the process.

Memory is anonymous memory (RssAnon in /proc/PID/status: what is neither mapped from a file nor shared), summed over the
process and its children, sampled 20 times a second; its peak is what a machine must have. Linux only.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.project import copy_sources, edit_yaml  # noqa: E402

STAGES = ("fetch", "prepare", "tokenize", "train")
PARAMS = {
    "corpus": {"name": "local", "source": "de", "target": "en"},
    "tokenize.source.character_coverage": 1.0,
    "runtime": {"device": "cpu", "precision": "float32", "threads": 1},
}
LETTERS = ("abcdefghijklmnopqrstuvwxyzäöüß", "abcdefghijklmnopqrstuvwxyz")
WORDS = 30_000
COPIES = 0.3
AT_ONCE = 100_000
TRAIN = """
import sys
from nmt.config import load_params
from nmt.runtime import resolve
from nmt.stages.train import make_trainer

class Enough(Exception):
    pass

def stop(result):
    if result.update == int(sys.argv[1]):
        raise Enough

params = load_params()
trainer = make_trainer(params, "attention", 1, resolve(params.runtime))
trainer.on_update = stop
try:
    for _ in trainer.epochs():
        pass
except Enough:
    print(trainer.progress.updates)
"""


def synthetic_lines(count: int) -> Iterator[bytes]:
    """Tab-separated pairs, `AT_ONCE` of them at a time; a copy is one of a line before it in the same batch."""
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
        rows = np.arange(size)
        origins = np.where(random.random(size) < COPIES, (random.random(size) * rows).astype(int), rows)
        yield "".join(f"{sides[0][row]}.\t{sides[1][row]}.\n" for row in origins.tolist()).encode()


def _words(random: np.random.Generator, letters: str) -> np.ndarray:
    lengths = random.integers(2, 11, WORDS)
    return np.array(["".join(random.choice(list(letters), length)) for length in lengths], object)


def write_corpus(folder: Path, count: int) -> None:
    """Put the corpus at the place of a user's own, and pin it."""
    digest = hashlib.sha256()
    with (folder / "data" / "local.tsv").open("wb") as stream:
        for lines in synthetic_lines(count):
            stream.write(lines)
            digest.update(lines)
    pin = {"path": "data/local.tsv", "sha256": digest.hexdigest()}
    entry = {"local.languages": ["de", "en"], "local.layout.columns": ["de", "en"], "local.files": {"local.tsv": pin}}
    edit_yaml(folder / "data" / "corpora.yaml", entry)


def anonymous_bytes(process: psutil.Process) -> int:
    """RssAnon of a process and its children, now; 0 for one that has just ended."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def run(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, those of the processors, children included, and peak anonymous memory in MiB."""
    begin = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": "src", "NMT_TRACKING": "off"}
    process = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            try:
                peak = max(peak, anonymous_bytes(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    ended.set()
    sampler.join()
    if status:
        sys.exit(f"{' '.join(command[:2])} failed")
    return seconds, usage.ru_utime + usage.ru_stime, peak / 2**20


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="+")
    parser.add_argument("--updates", type=int, default=20, help="of the training")
    parser.add_argument("--folder", type=Path, help="where the temporary copies lie; a disk, not a memory file system")
    arguments = parser.parse_args()
    commands = {stage: ["-m", f"nmt.stages.{stage}"] for stage in STAGES}
    commands["train"] = ["-c", TRAIN, str(arguments.updates)]
    print(
        "| pairs |" + "".join(f" {stage}: s | CPU s | MiB |" for stage in STAGES) + "\n|--:|" + "--:|" * 3 * len(STAGES)
    )
    for pairs in arguments.pairs:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            copy_sources(folder)
            write_corpus(folder, pairs)
            edit_yaml(folder / "params.yaml", PARAMS)
            print(f"| {pairs:,} |", end="", flush=True)
            for command in commands.values():
                seconds, processor_seconds, memory = run(command, folder)
                print(f" {seconds:.1f} | {processor_seconds:.1f} | {memory:,.0f} |", end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()

"""Seconds and peak memory of the data stages, on synthetic corpora of growing size.

    python benchmarks/pipeline.py 10000 100000 1000000

Writes a German-English corpus of drawn words (Zipf's law, 3 to 20 words a sentence) into a copy of the project in a
temporary folder, and runs fetch, prepare and tokenize there as DVC would: one process each.
"""

import argparse
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.project import copy_sources, edit_yaml, write_local_corpus  # noqa: E402

STAGES = ("fetch", "prepare", "tokenize")
PARAMS = {
    "corpus": {"name": "local", "source": "de", "target": "en"},
    "tokenize.source.character_coverage": 1.0,
}


def synthetic_pairs(count: int) -> Iterator[tuple[str, str]]:
    """Sentences of words that are frequent as in a language, each language with words of its own."""
    generator = random.Random(1)
    words = [
        ["".join(generator.choices(letters, k=generator.randint(2, 10))) for _ in range(30_000)]
        for letters in (string.ascii_lowercase + "äöüß", string.ascii_lowercase)
    ]
    weights = [1.0 / rank for rank in range(2, 30_002)]
    for _ in range(count):
        length = generator.randint(3, 20)
        yield tuple(" ".join(generator.choices(own, weights, k=length)).capitalize() + "." for own in words)


def run(stage: str, folder: Path) -> tuple[float, float]:
    """Seconds, and peak memory in MiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"nmt.stages.{stage}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "src", "NMT_TRACKING": "off"},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="+")
    print("| pairs |" + "".join(f" {stage}: s | MiB |" for stage in STAGES) + "\n|--:|" + "--:|--:|" * len(STAGES))
    for pairs in parser.parse_args().pairs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_sources(folder)
            write_local_corpus(folder, list(synthetic_pairs(pairs)))
            edit_yaml(folder / "params.yaml", PARAMS)
            results = [run(stage, folder) for stage in STAGES]
        print(
            f"| {pairs:,} |" + "".join(f" {seconds:.1f} | {memory:,.0f} |" for seconds, memory in results), flush=True
        )


if __name__ == "__main__":
    main()

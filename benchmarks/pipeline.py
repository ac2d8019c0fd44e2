"""Seconds and memory of the data stages and of training, on synthetic corpora of growing size.

    python benchmarks/pipeline.py 10000 100000 1000000 10000000

Writes a German-English corpus (see `tests/large.py`) into a copy of the project in a temporary folder, and runs fetch,
prepare and tokenize there as DVC would: one process each. Then it trains the attention model for some updates, from
the start of the process. Memory is the peak of anonymous memory, of the process and its children, sampled 20 times a
second. Numbers are printed as they come: a table of costs, whose last row divides those of the two largest corpora, and
one of what `prepare` made of the pairs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.large import Cost, measured, write_project

from nmt import paths

STAGES = ("fetch", "prepare", "tokenize", "train")
TRAIN = """
import sys
from nmt.config import load_params
from nmt.distributed import Team
from nmt.runtime import resolve
from nmt.stages.train import make_trainer

class Enough(Exception):
    pass

def stop(result):
    if result.update == int(sys.argv[1]):
        raise Enough

params = load_params()
trainer = make_trainer(params, "attention", 1, resolve(params.runtime), Team(shares=1))
trainer.on_update = stop
try:
    for _ in trainer.epochs():
        pass
except Enough:
    pass
"""
"""The stage's own trainer, stopped; the epoch's plan, which knows all pairs, is made before the first update."""


COSTS = ("pairs", *(f"{stage}: s | CPU s | MiB" for stage in STAGES), "all: s | CPU s | MiB")
COUNTS = ("pairs", "text, MB", "train", "dev", "test", "duplicates", "of 100", "of dev and test in train")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="+", help="sizes, the largest last")
    parser.add_argument("--updates", type=int, default=20, help="of the training")
    parser.add_argument("--folder", type=Path, help="where the temporary copies lie; a disk, not a memory file system")
    arguments = parser.parse_args()
    commands = {stage: ["-m", f"nmt.stages.{stage}"] for stage in STAGES}
    commands["train"] = ["-c", TRAIN, str(arguments.updates)]
    costs: list[list[Cost]] = []
    counts = []
    begin_table(COSTS, 1 + 3 * (1 + len(STAGES)))
    for pairs in arguments.pairs:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            write_project(Path(name), pairs)
            print_cells([f"{pairs:,}"], end="")
            costs.append([])
            for command in commands.values():
                costs[-1].append(measured(command, Path(name)))
                print_cells(shown(costs[-1][-1]), begin="", end="")
            costs[-1].append(together(costs[-1]))
            print_cells(shown(costs[-1][-1]), begin="")
            counts.append(counted(Path(name)))
    if len(costs) > 1:
        label = " / ".join(f"{pairs:,}" for pairs in arguments.pairs[:-3:-1])
        print_cells([label, *(cell for pair in zip(costs[-1], costs[-2], strict=True) for cell in ratios(*pair))])
    print()
    begin_table(COUNTS, len(COUNTS))
    for row in counts:
        print_cells(row)


def together(costs: Sequence[Cost]) -> Cost:
    """Of stages one after the other: the sum of seconds, the peak of memory."""
    seconds, processor_seconds = (
        sum(getattr(cost, name) for cost in costs) for name in ("seconds", "processor_seconds")
    )
    return Cost(seconds, processor_seconds, max(cost.anonymous_mib for cost in costs))


def counted(folder: Path) -> list[str]:
    """A row of COUNTS; duplicates are counted among the pairs that are in no other part than train."""
    report = json.loads((folder / paths.CORPUS_REPORT).read_text())
    pairs, duplicates = report["pairs"], report["dropped_from_train"]["duplicate"]
    train = pairs["train"] + sum(report["dropped_from_train"].values())
    leaks = sum(report["leaks"][part]["either"] for part in ("dev", "test"))
    text = (folder / paths.RAW / "local.tsv").stat().st_size / 1e6
    numbers = [pairs["read"], round(text), pairs["train"], pairs["dev"], pairs["test"], duplicates]
    return [*(f"{number:,}" for number in numbers), f"{100 * duplicates / train:.2f}", str(leaks)]


def shown(cost: Cost) -> list[str]:
    """Three cells."""
    return [f"{cost.seconds:,.1f}", f"{cost.processor_seconds:,.1f}", f"{cost.anonymous_mib:,.0f}"]


def ratios(large: Cost, small: Cost) -> list[str]:
    """How many times as much, cell by cell."""
    names = ("seconds", "processor_seconds", "anonymous_mib")
    return [f"{getattr(large, name) / getattr(small, name):.2f}" for name in names]


def begin_table(names: Iterable[str], columns: int) -> None:
    """Print the header of a table of numbers."""
    print_cells(names)
    print("|" + "--:|" * columns, flush=True)


def print_cells(cells: Iterable[str], begin: str = "|", end: str = "\n") -> None:
    """Print cells of a row, or a whole one, at once: a row of large corpora takes minutes."""
    print(begin + "".join(f" {cell} |" for cell in cells), end=end, flush=True)


if __name__ == "__main__":
    main()

"""Seconds and memory of the data stages and of training, on synthetic corpora of growing size.

    python benchmarks/pipeline.py 10000 100000 1000000 10000000

Writes a German-English corpus (see `tests/large.py`) into a copy of the project in a temporary folder, and runs fetch,
prepare and tokenize there as DVC would: one process each. Then it trains the attention model for some updates, from
the start of the process. Memory is anonymous memory, of the process and its children, sampled 20 times a second.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.large import measured, write_project

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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="+")
    parser.add_argument("--updates", type=int, default=20, help="of the training")
    parser.add_argument("--folder", type=Path, help="where the temporary copies lie; a disk, not a memory file system")
    arguments = parser.parse_args()
    commands = {stage: ["-m", f"nmt.stages.{stage}"] for stage in STAGES}
    commands["train"] = ["-c", TRAIN, str(arguments.updates)]
    print("| pairs |" + "".join(f" {stage}: s | CPU s | MiB |" for stage in STAGES))
    print("|--:|" + "--:|" * 3 * len(STAGES))
    for pairs in arguments.pairs:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            write_project(folder, pairs)
            print(f"| {pairs:,} |", end="", flush=True)
            for command in commands.values():
                cost = measured(command, folder)
                numbers = f" {cost.seconds:.1f} | {cost.processor_seconds:.1f} | {cost.anonymous_mib:,.0f} |"
                print(numbers, end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()

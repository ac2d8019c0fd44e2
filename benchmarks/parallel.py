"""What sharing a batch brings and costs: seconds of an update by one process, and by several that share each batch.

    python benchmarks/parallel.py            # after `dvc repro tokenize`; --devices 2 --updates 40 --rounds 2

The default model with attention on the training set, batches of `train.batch_tokens`, in one process and in so many, in
turn. Prints for each round the seconds of an update on the clock, the CPU seconds of all processes together, and the
ratios; the first updates are not counted. Where cores have other work, too, the clock tells little, and the CPU seconds
tell the price alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nmt import launcher
from nmt.config import load_params
from nmt.distributed import Team, team
from nmt.runtime import resolve
from nmt.stages.train import make_trainer
from nmt.training import UpdateResult

WARM_UP = 3
"""Updates of each round that are not counted."""


class Enough(Exception):
    """The updates asked for are done."""


def train(team: Team, updates: int) -> dict[str, float]:
    """Seconds and CPU seconds of this process, per update."""
    params = load_params()
    trainer = make_trainer(params, "attention", 1, resolve(params.runtime), team)
    marks: list[tuple[float, float]] = []

    def on_update(result: UpdateResult) -> None:
        marks.append((time.perf_counter(), time.process_time()))
        if result.update == WARM_UP + updates:
            raise Enough

    trainer.on_update = on_update
    try:
        for _ in trainer.epochs():
            pass
    except Enough:
        pass
    (begin, begin_cpu), (end, end_cpu) = marks[WARM_UP - 1], marks[-1]
    return {"seconds": (end - begin) / updates, "cpu": (end_cpu - begin_cpu) / updates}


def measure(devices: int, updates: int) -> dict[str, float]:
    """The same of all processes: the longest time, and the CPU seconds together."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARALLEL_BENCHMARK"] = json.dumps([devices, updates, folder])
        if devices == 1:
            subprocess.run([sys.executable, __file__], check=True)
        else:
            status = launcher.launch(devices, "benchmarks.parallel")
            assert not status, status
        found = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    return {"seconds": max(one["seconds"] for one in found), "cpu": sum(one["cpu"] for one in found)}


def work(devices: int, updates: int, folder: str) -> None:
    """One process of a measurement."""
    device = resolve(load_params().runtime).device
    with team(devices, device) as own:
        (Path(folder) / str(own.rank)).write_text(json.dumps(train(own, updates)))


def main() -> None:
    """Print the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    for number in range(1, arguments.rounds + 1):
        one, several = (measure(count, arguments.updates) for count in (1, arguments.devices))
        print(f"round {number}: {_line(1, one)}; {_line(arguments.devices, several)}; ", end="")
        print(f"speed {one['seconds'] / several['seconds']:.2f}, CPU time {several['cpu'] / one['cpu']:.2f} times")


def _line(processes: int, found: dict[str, float]) -> str:
    return f"{processes} process(es) {found['seconds']:.3f} s, {found['cpu']:.3f} CPU s an update"


if __name__ == "__main__":
    task: Any = json.loads(os.environ.get("PARALLEL_BENCHMARK", "null"))
    if task:
        work(*task)
    else:
        main()

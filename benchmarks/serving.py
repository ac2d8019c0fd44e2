"""Latency and sentences per second of `nmt serve` under load, as clients see them.

    python benchmarks/serving.py                 # after `dvc repro train`; --model for another bundle

Needs wrk (Debian and Ubuntu: apt install wrk). For each number of workers a server of its own starts at a free port of
127.0.0.1; so many clients at a time send it test sentences, one a request, each the next one once it has its answer,
over connections that stay open. Answers hold the attention, as for the page. Server and clients share the cores.

Before each server, the same model translates without one, a sentence or a full batch at a time: what there is to reach.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nmt import paths
from nmt.config import load_params
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.files import read_lines, write_lines, write_text
from nmt.serving.worker import Search, translate
from nmt.translator import Translator

CLIENTS = (1, 8, 64)
BEAMS = (1, 5)
BATCH = 32
"""As of `nmt serve --max-batch`."""
WRK = """
local bodies, place = {}, 0
function init(arguments)
  for body in io.lines(arguments[1]) do bodies[#bodies + 1] = body end
end
function request()
  place = place % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, bodies[place])
end
function done(summary, latency)
  local wrong = 0
  for _, count in pairs(summary.errors) do wrong = wrong + count end
  print(string.format('{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "wrong": %d}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), wrong))
end
"""


@contextlib.contextmanager
def server(model: Path, workers: int) -> Iterator[str]:
    """The address of a server of our own."""
    command = [sys.executable, "-m", "nmt", "serve", "--model", str(model), "--port", "0", "--workers", str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            if not found:
                raise UserError("nmt serve does not start; its own line above says why")
            yield found[0]
        finally:
            process.terminate()


def without_server(translator: Translator, lines: list[str], beam: int, together: int, seconds: int) -> str:
    """A line of the table: batch after batch from text to words, as a worker does it."""
    search, times = Search(beam, n_best=1, attention=True), []
    translate(translator, lines[:together], search)  # the first one loads dictionaries
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        place = len(times) * together % len(lines)
        translate(translator, lines[place : place + together], search)
        times.append(time.perf_counter() - begin)
    result = {"requests": len(times) * together, "microseconds": sum(times) * 1e6, "together": together, "wrong": 0}
    p50, p99 = np.percentile(times, [50, 99]) * 1e6
    return row("none", beam, 1, result | {"p50": p50, "p99": p99})


def health(address: str) -> dict[str, Any]:
    """Counts since the server's start, when nothing is left of what went before."""
    while True:
        time.sleep(0.5)
        with urllib.request.urlopen(f"{address}health", timeout=60) as response:
            counts = dict(json.load(response))
        if not counts["waiting"]:
            return counts


def load(address: str, clients: int, seconds: int, script: Path, bodies: Path) -> dict[str, Any]:
    """What wrk measures, and how many sentences went together."""
    before = health(address)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", script, f"{address}translate"]
    output = subprocess.run([*map(str, command), "--", str(bodies)], check=True, capture_output=True, text=True).stdout
    after = health(address)
    result = dict(json.loads(output.splitlines()[-1]))
    result["together"] = (after["sentences"] - before["sentences"]) / max(after["batches"] - before["batches"], 1)
    return result


def row(workers: int | str, beam: int, clients: int, result: dict[str, Any]) -> str:
    """A line of the table."""
    speed = result["requests"] / result["microseconds"] * 1e6
    search = "greedy" if beam == 1 else f"beam {beam}"
    times = f"{result['p50'] / 1e3:,.0f} | {result['p99'] / 1e3:,.0f}"
    return (
        f"| {workers} | {search} | {clients} | {speed:,.0f} | {times} | {result['together']:.1f} | {result['wrong']} |"
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=paths.bundle("attention", load_params().seeds[0]))
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed; on Debian and Ubuntu: apt install wrk")
    lines = read_lines(paths.prepared_text("test", "source"))
    translator = Translator.load(arguments.model, Decoding.of(load_params().translate), device="cpu", threads=1)
    print("| workers | search | clients | sentences/s | p50, ms | p99, ms | sentences a batch | errors |")
    print("|--:|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        script, bodies = Path(folder) / "wrk.lua", Path(folder) / "bodies"
        write_text(script, WRK)
        for workers in arguments.workers:
            for beam, together in itertools.product(BEAMS, (1, BATCH)):
                print(without_server(translator, lines, beam, together, arguments.seconds), flush=True)
            with server(arguments.model, workers) as address:
                for beam, clients in itertools.product(BEAMS, CLIENTS):
                    write_lines(bodies, (json.dumps({"source": [line], "beam_size": beam}) for line in lines))
                    load(address, clients, 1, script, bodies)
                    result = load(address, clients, arguments.seconds, script, bodies)
                    print(row(workers, beam, clients, result), flush=True)
    print("\nload of the machine in the last 1, 5 and 15 minutes:", *(f"{value:.1f}" for value in os.getloadavg()))


if __name__ == "__main__":
    main()

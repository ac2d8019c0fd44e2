"""Work in several processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nmt.errors import UserError
from nmt.processes import PROCESSES, in_order

WAITING = """
import sys, time
sys.path.insert(0, {folder!r})
from nmt.processes import in_order
if __name__ == "__main__":
    list(in_order(time.sleep, [600, 600, 600]))
"""


def square(number: int) -> int:
    """Fail for 13; be killed for 17."""
    if number == 13:
        raise UserError("thirteen")
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_results_are_in_order_and_work_is_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is taken only when there is room: a corpus of any length passes through."""
    monkeypatch.setenv(PROCESSES, "2")
    taken = 0

    def pieces() -> Iterator[int]:
        nonlocal taken
        for number in range(100, 140):
            taken += 1
            yield number

    results = in_order(square, pieces())
    assert next(results) == 10_000
    assert taken <= 6
    assert list(results) == [number * number for number in range(101, 140)]
    with pytest.raises(UserError, match="thirteen"):
        list(in_order(square, [12, 13, 14]))
    with pytest.raises(UserError, match="set NMT_PROCESSES, now 2, to a smaller number"):
        list(in_order(square, [16, 17, 18]))


def test_one_piece_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started for it, nor where only one is allowed."""
    monkeypatch.setenv(PROCESSES, "2")
    assert list(in_order(lambda _: os.getpid(), [1])) == [os.getpid()]
    monkeypatch.setenv(PROCESSES, "1")
    assert list(in_order(lambda _: os.getpid(), [1, 2])) == [os.getpid()] * 2


@pytest.mark.parametrize("count", ["0", "two", "-1", ""])
def test_a_number_of_processes_is_one(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is said."""
    monkeypatch.setenv(PROCESSES, count)
    with pytest.raises(UserError, match="NMT_PROCESSES is"):
        list(in_order(square, [1, 2]))


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """Even if it is killed."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING.format(folder=str(Path(__file__).parent.parent / "src")))
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {PROCESSES: "2"})
    try:
        deadline = time.monotonic() + 60
        while len(workers := psutil.Process(parent.pid).children()) < 3:  # two, and what looks after semaphores
            assert time.monotonic() < deadline, "no workers"
            time.sleep(0.1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive

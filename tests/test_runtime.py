"""What a stage finds out about its machine, and how processes share it."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from nmt import runtime


def test_gpus_are_taken_in_one_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever numbers they have in a process: of two that begin at different ends each would wait for the other."""
    orders: list[list[str]] = []

    def take(lock: FileLock) -> AbstractContextManager[None]:
        orders[-1].append(Path(lock.lock_file).name)
        return nullcontext()

    monkeypatch.setattr(runtime, "_one_gpu", take)
    for names in ("ab", "ba"):
        monkeypatch.setattr(runtime, "_device_name", lambda _, number, names=names: names[number])
        orders.append([])
        with runtime.alone_on_gpu(torch.device("meta"), tmp_path, 2):
            pass
    assert orders == [["a.lock", "b.lock"]] * 2

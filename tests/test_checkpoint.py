"""Checkpoints: what a kill, a bad disk or another training leaves is refused, and the one before it is used."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nmt.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

ORIGIN = {"training": "a" * 16, "precision": "float32", "torch": "2"}
NEWEST, BEFORE = "state.safetensors", "previous.safetensors"


class Cut(Exception):
    """Stands for a process that ends here."""


def state(update: int) -> Checkpoint:
    """A state that is known by its update."""
    tensors = {"weights.x": torch.full((20, 5), float(update)), "optimizer.step.x": torch.tensor(float(update))}
    return Checkpoint(tensors, {"progress": {"updates": update, "best_loss": float("inf")}})


def update_of(folder: Path) -> int | None:
    """The update of the checkpoint that is used, all of which must be of that update."""
    found = load_checkpoint(folder, ORIGIN)
    if found is None:
        return None
    updates = {int(value) for tensor in found.tensors.values() for value in tensor.reshape(-1)}
    assert updates == {found.progress["progress"]["updates"]}
    assert found.tensors["optimizer.step.x"].shape == ()
    return updates.pop()


def saved(folder: Path, *updates: int) -> Path:
    """A folder with these states, saved one after the other."""
    for update in updates:
        save_checkpoint(folder, state(update), ORIGIN)
    return folder


def test_two_generations_are_kept(tmp_path: Path) -> None:
    """The newest is used, the one before it lies beside it, and nothing else."""
    assert update_of(tmp_path) is None
    assert update_of(saved(tmp_path, 1)) == 1
    assert update_of(saved(tmp_path, 2, 3)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEFORE, NEWEST]
    (tmp_path / NEWEST).unlink()
    assert update_of(tmp_path) == 2


def test_a_truncated_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off anywhere, it is named with the reason, and the one before it is used."""
    whole = (saved(tmp_path, 1, 2) / NEWEST).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / NEWEST).write_bytes(whole[:length])
        assert update_of(tmp_path) == 1
        assert f"{tmp_path / NEWEST} is not used: it is damaged (" in capsys.readouterr().out


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """Wherever it is: in the header's length, in the header, in a tensor."""
    whole = (saved(tmp_path, 1, 2) / NEWEST).read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / NEWEST).write_bytes(damaged)
        assert update_of(tmp_path) == 1, place


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training": "b" * 16}, f"it was made with training {'b' * 16} instead of {'a' * 16}"),
        ({"precision": "bfloat16"}, "it was made with precision bfloat16 instead of float32"),
        ({"devices": "2"}, "it was made with devices 2 instead of None"),
    ],
)
def test_another_origin_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], reason: str
) -> None:
    """A foreign training, and the own one by other arithmetic, would go on to other bits."""
    saved(tmp_path, 1)
    save_checkpoint(tmp_path, state(2), ORIGIN | change)
    assert update_of(tmp_path) == 1
    assert f"{tmp_path / NEWEST} is not used: {reason}\n" == capsys.readouterr().out
    save_checkpoint(tmp_path, state(3), ORIGIN | change)
    assert update_of(tmp_path) is None


def test_another_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What earlier versions wrote had no header, what later ones write is not known."""
    saved(tmp_path, 1, 2)
    headers: dict[str, dict[str, str]] = {
        "the format 1": {"progress": "{}"},
        "the format 9": {"checkpoint": json.dumps({"format": 9, "origin": ORIGIN})},
    }
    for reason, metadata in headers.items():
        safetensors.torch.save_file(state(2).tensors, tmp_path / NEWEST, metadata)
        assert update_of(tmp_path) == 1
        assert f"it has {reason}, and this version reads 2" in capsys.readouterr().out


@pytest.mark.parametrize("step", range(4))
def test_a_cut_while_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before each of the steps that change the folder: the old state or the new one, and the next save goes on."""
    saved(tmp_path, 1, 2)
    left = step

    def cut_before(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    with monkeypatch.context() as patched:
        monkeypatch = patched
        cut_before("fsync")
        cut_before("replace")
        with pytest.raises(Cut):
            save_checkpoint(tmp_path, state(3), ORIGIN)
    assert update_of(tmp_path) == 2
    assert update_of(saved(tmp_path, 4)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEFORE, NEWEST]

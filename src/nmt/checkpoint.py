"""The state of a training that has not finished: one safetensors file that is either whole or absent.

It lies outside every DVC output (DVC empties outputs before a stage starts), in a folder named by the training's id.
Two generations are kept: the newest, and the one before it for the case that the newest cannot be used.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nmt.files import sync_folder, write_bytes

FORMAT = 2
_NEWEST, _BEFORE, _DRAFT = "state.safetensors", "previous.safetensors", "next.safetensors"
_HEADER = "checkpoint"

Origin = Mapping[str, str]
"""What made a checkpoint, by name: the training, and the arithmetic of its bits. No other may go on with it."""


class Checkpoint(NamedTuple):
    """Tensors by name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


class Unusable(Exception):
    """Why a checkpoint is refused."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, origin: Origin) -> None:
    """Add a generation; the one before it stays.

    A kill at any moment leaves a whole one; a draft that was not finished is written over.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"format": FORMAT, "origin": dict(origin), "progress": checkpoint.progress}
    header["sha256"] = _digest(tensors, header)
    newest, before, draft = (folder / name for name in (_NEWEST, _BEFORE, _DRAFT))
    write_bytes(draft, safetensors.torch.save(tensors, {_HEADER: json.dumps(header)}))
    if newest.exists():
        os.replace(newest, before)
    os.replace(draft, newest)
    sync_folder(folder)


def load_checkpoint(folder: Path, origin: Origin) -> Checkpoint | None:
    """The newest checkpoint that can be used; None if there is none. One that is refused is named, and why."""
    for path in (folder / _NEWEST, folder / _BEFORE):
        if path.exists():
            try:
                return _read(path, origin)
            except Unusable as reason:
                print(f"{path} is not used: {reason}", flush=True)
    return None


def _read(path: Path, origin: Origin) -> Checkpoint:
    """One generation.

    Raises:
        Unusable: it is damaged, of another format, or of another origin.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            header = json.loads((archive.metadata() or {}).get(_HEADER, "{}"))
            _check_header(header, origin)
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise Unusable(f"it is damaged ({error})") from None
    if header.pop("sha256", None) != _digest(tensors, header):
        raise Unusable("it is damaged (its sha256 is another)")
    return Checkpoint(tensors, header["progress"])


def _check_header(header: Any, origin: Origin) -> None:
    """Refuse another format first: what else stands in its header is not known."""
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise Unusable(f"it has the format {found or 1}, and this version reads {FORMAT}")
    theirs = header.get("origin")
    if theirs != dict(origin):
        theirs = theirs if isinstance(theirs, dict) else {}
        names = [name for name in {**origin, **theirs} if theirs.get(name) != origin.get(name)]
        other = (f"{name} {theirs.get(name)} instead of {origin.get(name)}" for name in names)
        raise Unusable(f"it was made with {', '.join(other)}")


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """sha256 of all that a checkpoint says: a flipped bit must not become a slightly other model."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""The state of a training that has not finished: one safetensors file that is either whole or absent.

It lies outside every DVC output (DVC empties outputs before a stage starts), in a folder named by the training's id.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from nmt.files import write_bytes

_NAME = "state.safetensors"
_PROGRESS = "progress"


class Checkpoint(NamedTuple):
    """Tensors by name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_bytes(folder / _NAME, safetensors.torch.save(tensors, {_PROGRESS: json.dumps(checkpoint.progress)}))


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The folder's checkpoint; None if there is none or it cannot be read, in which case training starts anew."""
    path = folder / _NAME
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as archive:
            progress = json.loads((archive.metadata() or {})[_PROGRESS])
            return Checkpoint({name: archive.get_tensor(name) for name in archive.keys()}, progress)  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        print(f"{path} cannot be used ({error}); training starts from the beginning", flush=True)
        return None

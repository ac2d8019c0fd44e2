"""Kernels that the machine compiles: Triton's (kernels.py) for a GPU, C++ (native/) for a CPU with AVX-512.

Triton's run a GRU's recurrences; those in C++ a GRU's and an LSTM's, products, the loss, and parts of nmt.prediction
and nmt.search. They are used where they work, unless `runtime.kernels` says none. Others may give other last bits.
"""

import functools
import sys
from types import ModuleType

import torch
from torch import Tensor

_allowed = True


def allow(allowed: bool) -> None:
    """Whether any are used from now on."""
    global _allowed
    _allowed = allowed


def on_gpu(device: torch.device) -> ModuleType | None:
    """kernels.py, if it is wanted and works there."""
    return _triton(device) if _allowed and device.type == "cuda" else None


def on_cpu(*operands: Tensor) -> bool:
    """Whether native/ computes with these: numbers on a CPU, in a type that it has, at least one."""
    types = (torch.float32, torch.bfloat16)
    fit = all(each.device.type == "cpu" and each.dtype in types and each.numel() > 0 for each in operands)
    return _allowed and fit and _native() is not None


def version(device: torch.device) -> str:
    """What decides the kernels' last bits on a device, or "none"."""
    if not _allowed:
        return "none"
    if device.type == "cuda":
        kernels = _triton(device)
        return "none" if kernels is None else f"Triton {kernels.triton.__version__}"
    return _native() or "none"


@functools.cache
def _triton(device: torch.device) -> ModuleType | None:
    """CUDA builds of torch bring Triton, which calls a C compiler."""
    try:
        from nmt.model import kernels

        kernels.try_out(device)
    except Exception as error:  # whatever a compiler may raise
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        print(
            f"no Triton kernels ({reason}): a GRU's recurrences take several times as long", file=sys.stderr, flush=True
        )
        return None
    return kernels


@functools.cache
def _native() -> str | None:
    """The version of native/, if it works here."""
    from nmt.model.native import library

    if not library.fits_processor():
        return None
    try:
        library.library()
        return f"C++ {library.version()}"
    except library.NoCompiler as error:
        print(f"no compiled kernels ({error}): training takes half as long again", file=sys.stderr, flush=True)
        return None

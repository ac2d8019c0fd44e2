"""Compiles the C++ beside it, once for each compiler and each version of it, and calls it."""

import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SOURCES = sorted([*Path(__file__).parent.glob("*.h"), *Path(__file__).parent.glob("*.cpp")])
FLAGS = (
    "-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC",
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma",
)  # fmt: skip
LANES = 16
"""Numbers in a register."""

Fields = dict[str, Tensor | int | float | None]


class NoCompiler(Exception):
    """The machine has none, or it failed; the message says why."""


def fits_processor() -> bool:
    """Whether this is one that the kernels are written for.

    Where there is AMX, torch's bfloat16 products use it and are several times as fast as those here.
    """
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fits = bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_bf16")
    return fits and sys.platform == "linux"


@functools.cache
def version() -> str:
    """What decides the last bits of what is computed here: the sources, the flags, and the compiler with its own."""
    command = _compiler()
    try:
        compiler = subprocess.run([*command, "--version"], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoCompiler(f"no C++ compiler: {error}") from error
    digest = hashlib.sha256(shlex.join([*command, *FLAGS]).encode() + compiler)
    for source in SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, from the user's cache, or compiled (a few seconds). Raises `NoCompiler`."""
    name = f"kernels-{version()}.so"
    try:
        compiled = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmt" / name
        if compiled.exists():
            with contextlib.suppress(OSError):  # damaged: made anew
                return ctypes.CDLL(str(compiled))
        _compile(compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, RuntimeError) as error:  # a folder that cannot be written, a user without a home
        raise NoCompiler(f"no place for what is compiled: {error}") from error


def _compiler() -> list[str]:
    """The compiler and its arguments, as CXX has them. Raises `NoCompiler`."""
    text = os.environ.get("CXX") or "c++"
    try:
        return shlex.split(text)
    except ValueError as error:
        raise NoCompiler(f"CXX is {text!r}: {error}") from None


def _compile(compiled: Path) -> None:
    """Several processes may do so at once: each makes its own, and the last one stays."""
    compiled.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=compiled.parent) as folder:
        made = Path(folder) / compiled.name
        sources = [str(source) for source in SOURCES if source.suffix == ".cpp"]
        command = [*_compiler(), *FLAGS, "-o", str(made), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise NoCompiler(said[0].strip() if said else f"{command[0]} failed")
        made.replace(compiled)


class Arguments(ctypes.Structure):
    """A struct of the C++ code by the names of its fields: numbers, or tensors without gaps, or None.

    It keeps the tensors alive whose addresses it holds.
    """

    def __init__(self, **fields: Tensor | int | float | None) -> None:
        self._tensors = list(fields.values())
        for tensor in self._tensors:
            assert not isinstance(tensor, Tensor) or tensor.is_contiguous()
        super().__init__(
            **{name: each.data_ptr() if isinstance(each, Tensor) else each for name, each in fields.items()}
        )


def fields(integers: str, tensors: str, floats: str = "") -> list[tuple[str, type]]:
    """The fields of a struct, by name, in the order of the C++ code."""
    kinds = [(integers, ctypes.c_long), (floats, ctypes.c_double), (tensors, ctypes.c_void_p)]
    return [(name, kind) for names, kind in kinds for name in names.split()]


def call(kernel: str, dtype: torch.dtype, arguments: Arguments) -> None:
    """Run a kernel whose operands are of that type, in as many threads as torch's operations have."""
    library().use_threads(torch.get_num_threads())
    getattr(library(), f"{kernel}_{str(dtype).removeprefix('torch.')}")(ctypes.byref(arguments))

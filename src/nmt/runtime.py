"""What `runtime: auto` means on this machine."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from nmt.config import Runtime
from nmt.errors import UserError
from nmt.model import compiled

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Resolved:
    """The device, precision and threads that a computation really uses."""

    device: torch.device
    precision: str
    threads: int

    @property
    def product_dtype(self) -> torch.dtype:
        """The type of matrix products' operands; everything else is float32."""
        return PRODUCTS[self.precision]


def resolve(runtime: Runtime) -> Resolved:
    """Choose device and precision, set threads once, ask for reproducible kernels."""
    device = _device(runtime.device)
    precision = runtime.precision
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(device) else "float32"
    torch.set_num_threads(runtime.threads)
    compiled.allow(runtime.kernels == "auto")
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may sum in another order
    torch.use_deterministic_algorithms(True)
    # A debugging aid that costs a pass over every result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Resolved(device, precision, runtime.threads)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "runtime.device is cuda, but torch finds no GPU here; "
            "set it to auto or cpu, or install a CUDA build of torch"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def processes(device: torch.device, wanted: int | None = None, cores: int = 1) -> int:
    """How many processes to use for so many pieces of work, or for any number of them.

    One for each GPU; on a CPU as many as are wanted, or one for each of the `cores` at hand. NMT_PROCESSES may say
    another number, though none without a GPU where GPUs are used: no result depends on it, so it is no parameter.
    """
    text = os.environ.get("NMT_PROCESSES", "")
    if text and not (text.isdecimal() and int(text)):
        raise UserError(f"NMT_PROCESSES is {text!r}; write a number of processes, such as 1")
    if device.type == "cuda":
        asked = min(int(text or torch.cuda.device_count()), torch.cuda.device_count())
    else:
        asked = int(text or wanted or cores)
    return min(asked, wanted or asked)


@contextlib.contextmanager
def alone_on_gpu(device: torch.device, locks: Path, count: int = 1) -> Iterator[None]:
    """Hold so many GPUs for one training at a time, however many workers share `locks`; a CPU is shared freely.

    Two trainings at once would be slower than one after the other, and might not fit into memory. A lock goes with
    the process, so a training that is killed leaves the GPU free.
    """
    if device.type == "cpu":
        yield
        return
    locks.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        # Sorted, since numbers differ from process to process: locks taken in one order by all cannot deadlock.
        for name in sorted(_device_name(device, number) for number in range(count)):
            held.enter_context(_one_gpu(FileLock(locks / f"{name}.lock")))
        yield


@contextlib.contextmanager
def _one_gpu(lock: FileLock) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("waiting: another training has the GPU", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _device_name(device: torch.device, number: int) -> str:
    """The same for every process that sees this GPU, whatever number CUDA_VISIBLE_DEVICES gives it."""
    if device.type != "cuda":
        return device.type
    return f"gpu-{torch.cuda.get_device_properties(number).uuid}"


def _keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks.

    Handing each large one back makes the kernel clear its pages again for every result. The parameters are
    M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3), of which glibc before 2.35 takes 32 MiB at most. Other C
    libraries are left as they are.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**31 - 1)
            mallopt(-3, 2**30) or mallopt(-3, 2**25)


def processor(device: torch.device) -> str:
    """What decides which kernels compute, and so the last bits of a result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8", "replace") if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{name[1] if name else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 itself; an emulation would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

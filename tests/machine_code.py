"""What the GPU's kernels compile to, for GPUs that are not here: `python -m tests.machine_code` prints it as JSON.

Triton compiles for any NVIDIA GPU on a machine without one: what a training would launch is caught, and compiled to
machine code instead, in the bench shape of benchmarks/. (What the kernels compute is tested by test_kernels.py, which
has Triton interpret them; that takes place before this, and no fault of the compiler's shows there.)
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nmt.model import kernels

GENERATIONS = {80: "A100", 90: "H100 and H200"}
NAMES = ("_cell_forward", "_cell_backward", "_attend_forward", "_attend_backward")
STEPS, BATCH, SIZE = 2, 2, 512
LENGTHS = (12, 40)
"""Source positions: of short sentences, which fill one tile of keys, and of long ones, which have several."""

_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.bool: "*i1"}
_ALIGNED = [["tt.divisibility", 16]]


class Launch(NamedTuple):
    """A kernel and what decides its code: types, alignment and constants of its arguments."""

    name: str
    function: Any
    signature: dict[str, str]
    constants: dict[str, int | bool]
    attributes: dict[tuple[int], Any]

    @classmethod
    def of(cls, name: str, function: Any, values: tuple[Any, ...], constants: dict[str, int | bool]) -> "Launch":
        """As Triton itself tells launches apart."""
        signature, attributes = {}, {}
        for i, (argument, value) in enumerate(zip(function.arg_names, values, strict=False)):
            if isinstance(value, Tensor):
                signature[argument], number = _TYPES[value.dtype], value.data_ptr()
            else:
                signature[argument], number = "i32", value
            if number == 1:
                constants = {**constants, argument: 1}
            elif number % 16 == 0:
                attributes[i,] = _ALIGNED
        return cls(name, function, {**signature, **dict.fromkeys(constants, "constexpr")}, constants, attributes)

    def machine_code(self, generation: int) -> bytes:
        """For that compute capability."""
        source = ASTSource(self.function, self.signature, self.constants, self.attributes)
        code: bytes = triton.compile(source, target=GPUTarget("cuda", generation, 32)).asm["cubin"]
        return code


class Catcher:
    """Stands for a kernel; notes the launches and computes nothing."""

    def __init__(self, name: str, caught: dict[str, Launch]) -> None:
        self.name, self.function, self.caught = name, getattr(kernels, name), caught

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.launch

    def launch(self, *values: Any, **constants: int | bool) -> None:
        launch = Launch.of(self.name, self.function, values, constants)
        self.caught[repr(launch)] = launch


def launches() -> Iterator[Launch]:
    """All that differ, of an encoder and a decoder with dropout, forward and back."""
    caught: dict[str, Launch] = {}
    for name in NAMES:
        setattr(kernels, name, Catcher(name, caught))
    for dtype in (torch.bfloat16, torch.float32):
        run_encoder(dtype)
        for length in LENGTHS:
            run_decoder("additive", dtype, length, asked=False)
        run_decoder("additive", dtype, LENGTHS[0], asked=True)
        for asked in (False, True):
            run_decoder("dot", dtype, LENGTHS[0], asked)
    yield from caught.values()


def run_encoder(dtype: torch.dtype) -> None:
    """Both directions."""
    half = SIZE // 2
    given, start = learned(STEPS, BATCH, 2, 3 * half), learned(2, BATCH, half)
    weight, bias, mask = learned(2, 3 * half, half), learned(2, 3 * half), torch.ones(2, BATCH, half)
    kernels.Sequence.apply(dtype, given.transpose(1, 2), weight, bias, mask, start).sum().backward()


def run_decoder(score: str, dtype: torch.dtype, length: int, asked: bool) -> None:
    """With attention."""
    memory = [learned(BATCH, length, SIZE), learned(BATCH, length, SIZE), torch.zeros(BATCH, length, dtype=torch.bool)]
    score_weight = learned(SIZE) if score == "additive" else torch.ones(1)
    attended = [learned(STEPS, BATCH, 3 * SIZE), *memory, learned(SIZE, SIZE), score_weight, learned(3 * SIZE, SIZE)]
    layer = [learned(3 * SIZE, SIZE), learned(3 * SIZE), torch.ones(BATCH, SIZE)]
    more = learned(STEPS, BATCH, SIZE) if asked else None
    hidden, contexts, _ = kernels.Attended.apply(score, dtype, *attended, *layer, more, learned(BATCH, SIZE))
    (hidden.sum() + contexts.sum()).backward()


def learned(*size: int) -> Tensor:
    """Something that has a gradient."""
    return torch.zeros(size, requires_grad=True)


def resources(code: bytes) -> dict[str, int]:
    """What a thread and a block of a kernel need: registers, bytes of stack (spilled registers), of shared memory."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    numbers = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", told.stdout))
    return {"registers": int(numbers["REG"]), "stack": int(numbers["STACK"]), "shared": int(numbers["SHARED"])}


def main() -> None:
    """Compile all for all, and print a row of each."""
    rows = [
        {"kernel": launch.name, "for": gpu, **resources(launch.machine_code(generation)), "constants": launch.constants}
        for launch in launches()
        for generation, gpu in GENERATIONS.items()
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

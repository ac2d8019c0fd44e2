"""The attention decoder's recurrence, forward and backward, against a floor made of its matrix products alone.

    python benchmarks/recurrence.py

The floor of a step is the time of the products that no rearrangement can take out of the loop (gates and query from the
state, gates from the context), and of their transposes on the way back, measured here in the same shapes and precision,
plus each step's share of the weights' gradients. Prints milliseconds per step, best of the rounds, which alternate
between the recurrence and its floor. On CUDA both are recorded as graphs, as training with `train.cuda_graphs` runs
them, and the cost of one kernel launch outside of a graph is printed, too.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nmt.config import Runtime
from nmt.graphs import recorded
from nmt.model.recurrence import Layer, run_attended
from nmt.runtime import PRODUCTS, resolve

SHAPES = {
    "bench": {"batch": 64, "source": 14, "target": 14, "hidden": 512, "context": 512, "attention": 512},
    "default": {"batch": 125, "source": 11, "target": 12, "hidden": 256, "context": 256, "attention": 256},
    "long": {"batch": 30, "source": 45, "target": 50, "hidden": 256, "context": 256, "attention": 256},
}
ROUNDS = 7


def recurrence(shape: dict[str, int], dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], None], ...]:
    """One pass forward, and one forward and back, of random inputs."""
    batch, source, target, hidden, context, attention = shape.values()

    def tensor(*size: int, grad: bool = True) -> Tensor:
        return (0.1 * torch.randn(size, device=device)).requires_grad_(grad)

    arguments = {
        "inputs_TBG": tensor(target, batch, 3 * hidden),
        "keys_BSA": tensor(batch, source, attention), "values_BSC": tensor(batch, source, context),
        "padding_BS": torch.zeros(batch, source, dtype=torch.bool, device=device),
        "query_weight_AH": tensor(attention, hidden), "score_weight_A": tensor(attention),
        "context_weight_GC": tensor(3 * hidden, context), "between_BH": None, "residual": False,
    }  # fmt: skip
    leaves = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
    weight, bias, state = tensor(3 * hidden, hidden), tensor(3 * hidden), tensor(batch, hidden)
    arguments["layers"] = [
        Layer(weight, bias, (state,), mask_BH=None, input_weight_GH=None, input_bias_G=None, norm=None)
    ]
    leaves += [weight, bias, state]

    def forward() -> None:
        run_attended("gru", "additive", dtype, **arguments)

    def both() -> None:
        hidden_TBH, contexts_TBC, _ = run_attended("gru", "additive", dtype, **arguments)
        torch.autograd.grad(hidden_TBH.sum() + contexts_TBC.sum(), leaves)

    return forward, both


def products(shape: dict[str, int], dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], None], ...]:
    """The products of all steps, forward, and forward and back."""
    batch, _, target, hidden, context, attention = shape.values()

    def tensor(*size: int) -> Tensor:
        return torch.randn(size, device=device).to(dtype)

    state, mixed = tensor(batch, hidden), tensor(batch, context)
    joint, joint_back = tensor(hidden, attention + 3 * hidden), tensor(attention + 3 * hidden, hidden)
    inner, inner_back = tensor(context, 3 * hidden), tensor(3 * hidden, context)
    d_joint, d_inner = tensor(batch, attention + 3 * hidden), tensor(batch, 3 * hidden)
    all_states, all_contexts = tensor(target * batch, hidden), tensor(target * batch, context)
    all_joint, all_inner = tensor(attention + 3 * hidden, target * batch), tensor(3 * hidden, target * batch)

    def forward() -> None:
        for _ in range(target):
            state @ joint
            mixed @ inner

    def both() -> None:
        forward()
        for _ in range(target):
            d_joint @ joint_back
            d_inner @ inner_back
        all_joint @ all_states
        all_inner @ all_contexts

    return forward, both


def milliseconds(work: Callable[[], None], device: torch.device) -> float:
    """One run."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3


def launch_cost(device: torch.device) -> float:
    """Milliseconds of the smallest operation."""
    one = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(1000):
            one.add_(1.0)

    return min(milliseconds(launch, device) for _ in range(ROUNDS)) / 1000


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    runtime = Runtime(device=arguments.device, precision="float32", threads=arguments.threads, kernels="auto")
    device = resolve(runtime).device
    print(f"{device.type}, {arguments.threads} threads, smallest operation {1e3 * launch_cost(device):.1f} us\n")
    print("| shape | products | forward, ms a step | floor | share | both ways, ms a step | floor | share |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, shape in SHAPES.items():
        for precision, dtype in PRODUCTS.items():
            works = eager = [*recurrence(shape, dtype, device), *products(shape, dtype, device)]
            if device.type == "cuda":  # graphs read the tensors that `eager` holds
                works = [recorded(work, [], device) for work in eager]
            rounds = [[milliseconds(work, device) for work in works] for _ in range(1 + ROUNDS)][1:]
            forward, both, floor, floor_both = (min(column) / shape["target"] for column in zip(*rounds, strict=True))
            print(
                f"| {name} | {precision} | {forward:.2f} | {floor:.2f} | {floor / forward:.0%} "
                f"| {both:.2f} | {floor_both:.2f} | {floor_both / both:.0%} |"
            )


if __name__ == "__main__":
    main()

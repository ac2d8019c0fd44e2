"""What one device reaches: the attention decoder fused against step by step, and whole trainings by batch size.

    python benchmarks/device_throughput.py --device cuda        # after `dvc repro tokenize`

First the decoder alone, forward and backward, at hidden 512, 128 sentences, 20 steps: `Decoder.step` in a loop against
the fused recurrence, and on CUDA against that recorded as a graph, float32 and bfloat16. Then the bench shape of
train_throughput.py at growing batches: real target tokens per second of whole updates, loss, backward, clipping, Adam
and average included, on CUDA also by graphs (`train.cuda_graphs`). `--deterministic off` lets the device choose its
fastest kernels, which shows what reproducible ones cost. Best of the rounds.
"""

import argparse
import time
from collections.abc import Callable
from itertools import product

import torch
from train_throughput import SENTENCES, WARM_UP, Bench, make_model, speed, train_ours

from nmt.config import Runtime
from nmt.graphs import recorded
from nmt.model.decoder import DecoderMasks, DecoderState, Memory
from nmt.runtime import PRODUCTS, resolve

BATCH, STEPS, HIDDEN = 128, 20, 512
ROUNDS = 5


def decoder_passes(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Forward and backward through the decoder's two forms, from the same random memory."""
    decoder = make_model("additive").to(device).decoder
    leaves = [torch.randn(size, device=device).mul_(0.1).requires_grad_() for size in
              ((BATCH, STEPS, HIDDEN), (BATCH, STEPS, HIDDEN), (1, BATCH, HIDDEN), (STEPS, BATCH, 256))]  # fmt: skip
    values, keys, start, embedded = leaves
    padding = torch.zeros(BATCH, STEPS, dtype=torch.bool, device=device)
    memory, masks = Memory(values, keys, padding, DecoderState((start,))), DecoderMasks.none(1)
    wanted = [*leaves, *(parameter for name, parameter in decoder.named_parameters() if _used(name))]

    def both_ways(decode: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]) -> None:
        hidden, contexts, _ = decode(memory, embedded, masks, dtype)
        torch.autograd.grad(hidden.sum() + contexts.sum(), wanted)

    passes: dict[str, Callable[[], None]] = {
        "step by step": lambda: both_ways(decoder._decode_by_steps),
        "fused": lambda: both_ways(decoder.decode),
    }
    if device.type == "cuda":
        passes["recorded"] = recorded(passes["fused"], [], device)
    return passes


def _used(name: str) -> bool:
    """The keys are given, and the readout comes later."""
    return not name.startswith(("attention.key", "readout"))


def milliseconds(work: Callable[[], None], device: torch.device) -> float:
    """One run, waited for."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3


def print_decoders(device: torch.device) -> None:
    """The decoder's two forms in alternation."""
    print(f"decoder, {BATCH} sentences, {STEPS} steps, {HIDDEN} units, both ways\n")
    print("| products | form | ms | step by step, times |\n|---|---|--:|--:|")
    for precision, dtype in PRODUCTS.items():
        passes = decoder_passes(device, dtype)
        rounds = [[milliseconds(work, device) for work in passes.values()] for _ in range(1 + ROUNDS)][1:]
        best = [min(column) for column in zip(*rounds, strict=True)]
        for name, time_needed in zip(passes, best, strict=True):
            print(f"| {precision} | {name} | {time_needed:.2f} | {best[0] / time_needed:.1f} |", flush=True)


def print_trainings(device: torch.device, sentences: list[int], updates: int, precisions: list[str]) -> None:
    """Whole trainings, with attention and without."""
    print(
        "\n| sentences a batch | products | by graphs | attention, tokens/s | plain, tokens/s |\n|--:|---|---|--:|--:|"
    )
    for size in sentences:
        text = Bench.draw(max(2 * WARM_UP, updates * SENTENCES // size), size)
        text.batches = [*text.batches, *text.batches]  # the first half is where graphs are recorded
        for precision, by_graphs in product(precisions, (False, True) if device.type == "cuda" else (False,)):
            clocks = [train_ours(text, kind, precision, device, by_graphs) for kind in ("additive", "none")]
            attention, plain = (speed(clock, len(clock) // 2 if by_graphs else WARM_UP) for clock in clocks)
            row = f"| {size:,} | {precision} | {'yes' if by_graphs else 'no'} | {attention:,.0f} | {plain:,.0f} |"
            print(row, flush=True)


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sentences", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--updates", type=int, default=400, help="of 64 sentences; larger batches make fewer of them")
    parser.add_argument("--precisions", choices=PRODUCTS, nargs="+", default=list(PRODUCTS))
    parser.add_argument("--deterministic", choices=["on", "off"], default="on")
    arguments = parser.parse_args()
    runtime = Runtime(device=arguments.device, precision="float32", threads=arguments.threads, kernels="auto")
    device = resolve(runtime).device
    torch.use_deterministic_algorithms(arguments.deterministic == "on")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} threads"
    print(f"{device.type}, {name}, deterministic {arguments.deterministic}\n")
    print_decoders(device)
    print_trainings(device, arguments.sentences, arguments.updates, arguments.precisions)


if __name__ == "__main__":
    main()

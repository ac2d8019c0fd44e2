"""Real target tokens per second of training: textbook models against ours, in alternating rounds.

    python benchmarks/train_throughput.py            # after `dvc repro tokenize`

Where JoeyNMT can be imported, too, its model is trained on the same batches (joeynmt_baseline.py says how to get it).

The bench shape: embeddings 256, bidirectional GRU encoder with 256 units a direction, decoder 512, additive attention,
vocabularies of 6,000 pieces, 64 sentences a batch, bucketed by length, Adam, label smoothing 0.1, dropout 0.2. Each
system gets the same batches; the first ones of a round are not counted. Prints tokens per second (median of the
rounds), against the textbook loop of the same round the median ratio and range, and the share of the speed that
`linear` reaches in that round.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from textbook import Textbook, TextbookPlain
from torch import nn

from nmt import paths
from nmt.batching import ParallelText
from nmt.config import Joining, Model, Runtime, load_params
from nmt.model import compiled
from nmt.model.seq2seq import Seq2Seq
from nmt.runtime import PRODUCTS, resolve
from nmt.subwords import PAD
from nmt.training import Trainer

try:
    import joeynmt_baseline
except ImportError:
    joeynmt_baseline = None

VOCABULARY = 6000
SENTENCES = 64
DROPOUT, SMOOTHING = 0.2, 0.1
WARM_UP = 5
"""Batches of each round that are not counted."""

CPU = torch.device("cpu")

Clock = list[tuple[float, int]]
"""After each update: the time, and the target tokens of its batch."""


class Bench(ParallelText):
    """A fixed number of batches of so many sentences of similar lengths, in a drawn order."""

    batches: Sequence[np.ndarray]

    @classmethod
    def draw(cls, count: int, sentences: int = SENTENCES) -> "Bench":
        """Batches from all lengths alike."""
        text = cls.open(*(paths.token_store("train", side) for side in paths.SIDES))
        order = np.lexsort((text.source.lengths, text.target.lengths))[:, None]
        starts = np.random.default_rng(1).permutation(len(order) // sentences)[:count] * sentences
        text.batches = [order[start : start + sentences] for start in starts]
        return text

    def shuffled_plan(self, batch_tokens: int, joining: Joining, keys: Sequence[int]) -> list[np.ndarray]:
        """The batches, whatever the keys."""
        return list(self.batches)

    def plan(self, batch_tokens: int) -> list[np.ndarray]:
        """One batch: what the epoch is closed with is not what is measured."""
        return [self.batches[0]]


def make_model(attention: str) -> Seq2Seq:
    """A model of the bench shape with its first weights."""
    settings = load_params().model.model_dump() | {
        "cell": "gru",
        "embedding_size": 256,
        "encoder": {"hidden_size": 256, "layers": 1, "bidirectional": True},
        "decoder": {"hidden_size": 512, "layers": 1},
        "attention_size": 512,
        "readout": "deep",
        "tie_output": True,
        "tie_embeddings": False,
        "layer_norm": False,
        "residual": False,
        "word_query": False,
        "lexical": False,
        "dropout": {"word": 0.0, "embedding": DROPOUT, "recurrent": 0.0, "output": DROPOUT},
    }
    model = Seq2Seq(Model.model_validate(settings), attention, VOCABULARY, VOCABULARY)
    model.initialize(1)
    return model


def train_textbook(text: Bench, model: nn.Module) -> Clock:
    """The loop that every tutorial has."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=SMOOTHING)
    clock: Clock = []
    for examples in text.batches:
        batch = text.batch(examples)
        optimizer.zero_grad()
        loss = criterion(model(batch).flatten(0, 1), batch.outputs_BT.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.append((time.perf_counter(), batch.target_tokens))
    return clock


def train_joeynmt(text: Bench) -> Clock:
    """JoeyNMT's model and loss on the same batches, with the optimizer and clipping of the others."""
    model = joeynmt_baseline.make_model(VOCABULARY, DROPOUT, SMOOTHING)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    clock: Clock = []
    for examples in text.batches:
        batch = text.batch(examples)
        optimizer.zero_grad()
        (joeynmt_baseline.loss(model, batch) / batch.target_tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.append((time.perf_counter(), batch.target_tokens))
    return clock


def train_ours(
    text: Bench,
    attention: str,
    precision: str,
    device: torch.device = CPU,
    by_graphs: bool = False,
    kernels: bool = True,
) -> Clock:
    """The project's own trainer, with all that it does at each update."""
    compiled.allow(kernels)
    model = make_model(attention).to(device)
    model.product_dtype = PRODUCTS[precision]
    clock: Clock = []
    settings = load_params().train.model_copy(update={"max_epochs": 1, "label_smoothing": SMOOTHING})
    trainer = Trainer(
        model, text, text, settings, 1, lambda result: clock.append((time.perf_counter(), result.target_tokens)),
        by_graphs=by_graphs,
    )  # fmt: skip
    list(trainer.epochs())
    return clock


def speed(clock: Clock, warm_up: int = WARM_UP) -> float:
    """Tokens per second after so many updates."""
    counted = clock[warm_up - 1 :]
    return sum(tokens for _, tokens in counted[1:]) / (counted[-1][0] - counted[0][0])


@torch.no_grad()
def check_same_loss(text: Bench) -> None:
    """The baseline computes the same thing, or the comparison means nothing."""
    batch = text.batch(text.batches[0])
    for attention, textbook in (("additive", Textbook), ("none", TextbookPlain)):
        model = make_model(attention)
        ours = model.loss(batch, SMOOTHING)
        logits = textbook(model, 0.0)(batch).flatten(0, 1)
        theirs = nn.functional.cross_entropy(
            logits, batch.outputs_BT.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING, reduction="sum"
        )
        torch.testing.assert_close(ours.smoothed, theirs, rtol=1e-4, atol=0.0)


def peak(dtype: torch.dtype, repetitions: int = 30) -> float:
    """Floating-point operations per second of `linear`, the better of an output layer's and a recurrence's product."""
    rates = []
    for rows, inner, columns in ((640, 512, 6000), (64, 1280, 2048)):
        inputs, weight = (torch.randn(size, inner).to(dtype) for size in (rows, columns))
        seconds = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            nn.functional.linear(inputs, weight)
            seconds.append(time.perf_counter() - begin)
        rates.append(2 * rows * inner * columns / statistics.median(seconds))
    return max(rates)


def operations(text: Bench, attention: str) -> float:
    """Floating-point operations of training per target token, by formula."""
    batches = [text.batch(examples) for examples in text.batches]
    pairs = sum(int((batch.source_lengths_B * (batch.outputs_BT != PAD).sum(1)).sum()) for batch in batches)
    source, target = (sum(getattr(batch, f"{side}_tokens") for batch in batches) for side in paths.SIDES)
    return make_model(attention).training_flops(source, target, pairs) / target


def print_shares(text: Bench, speeds: dict[str, list[float]], peaks: dict[str, list[float]]) -> None:
    """How much of the processor's measured product speed each of our trainings uses."""
    for name, values in speeds.items():
        kind, precision, *_ = name.split(", ")
        if kind in ("attention", "plain"):
            needed = operations(text, "additive" if kind == "attention" else "none")
            shares = [value * needed / best for value, best in zip(values, peaks[precision], strict=True)]
            best = statistics.median(peaks[precision]) / 1e9
            share = f"{statistics.median(shares):.0%} of linear's {best:.0f} GFLOP/s"
            print(f"{name}: {needed / 1e6:.1f} MFLOP a token, {share}")


def systems(text: Bench) -> dict[str, Callable[[], Clock]]:
    """What is compared, the baseline first."""
    others = {} if joeynmt_baseline is None else {"JoeyNMT, float32": lambda: train_joeynmt(text)}
    return {
        "textbook, float32": lambda: train_textbook(text, Textbook(make_model("additive"), DROPOUT)),
        **others,
        "plain of nn.GRU layers, float32": lambda: train_textbook(text, TextbookPlain(make_model("none"), DROPOUT)),
        **{
            f"{name}, {precision}{suffix}": functools.partial(train_ours, text, kind, precision, kernels=kernels)
            for kernels, suffix in ((True, ""), (False, ", without kernels"))
            for name, kind in (("attention", "additive"), ("plain", "none"))
            for precision in PRODUCTS
        },
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=45)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    runtime = Runtime(device="cpu", precision="float32", threads=arguments.threads, kernels="auto")
    resolve(runtime)
    text = Bench.draw(arguments.batches)
    check_same_loss(text)
    speeds: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    for number in range(arguments.rounds):
        for name, dtype in PRODUCTS.items():
            peaks[name].append(peak(dtype))
        for name, train in systems(text).items():
            speeds.setdefault(name, []).append(speed(train()))
            print(f"round {number + 1}: {name} {speeds[name][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    baseline = next(iter(speeds.values()))
    print("| system | tokens/s | ratio | range |\n|---|--:|--:|--:|")
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, baseline, strict=True)]
        middle = statistics.median(ratios)
        print(f"| {name} | {statistics.median(values):,.0f} | {middle:.2f} | {min(ratios):.2f} .. {max(ratios):.2f} |")
    print_shares(text, speeds, peaks)


if __name__ == "__main__":
    main()

"""Real target tokens per second of training: the textbook loop against the fused model, in alternating rounds.

    python benchmarks/train_throughput.py            # after `dvc repro tokenize`

The bench shape: embeddings 256, bidirectional GRU encoder with 256 units a direction, decoder 512, additive attention,
vocabularies of 6,000 pieces, 64 sentences a batch, bucketed by length, Adam, label smoothing 0.1, dropout 0.2. Each
system gets the same batches; the first ones of a round are not counted. Prints tokens per second (median of the
rounds) and, against the textbook loop of the same round, median ratio and range.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from textbook import Textbook
from torch import nn

from nmt import paths
from nmt.batching import ParallelText
from nmt.config import Joining, Model, Runtime, load_params
from nmt.model.seq2seq import Seq2Seq
from nmt.runtime import PRODUCTS, resolve
from nmt.subwords import PAD
from nmt.training import Trainer

VOCABULARY = 6000
SENTENCES = 64
DROPOUT, SMOOTHING = 0.2, 0.1
WARM_UP = 5
"""Batches of each round that are not counted."""

Clock = list[tuple[float, int]]
"""After each update: the time, and the target tokens of its batch."""


class Bench(ParallelText):
    """A fixed number of batches of 64 sentences of similar lengths, in a drawn order."""

    batches: Sequence[np.ndarray]

    @classmethod
    def draw(cls, count: int) -> "Bench":
        """Batches from all lengths alike."""
        text = cls.open(*(paths.token_store("train", side) for side in paths.SIDES))
        order = np.lexsort((text.source.lengths, text.target.lengths))[:, None]
        starts = np.random.default_rng(1).permutation(len(order) // SENTENCES)[:count] * SENTENCES
        text.batches = [order[start : start + SENTENCES] for start in starts]
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
        "dropout": {"embedding": DROPOUT, "recurrent": 0.0, "output": DROPOUT},
    }
    model = Seq2Seq(Model.model_validate(settings), attention, VOCABULARY, VOCABULARY)
    model.initialize(1)
    return model


def train_textbook(text: Bench) -> Clock:
    """The loop that every tutorial has."""
    model = Textbook(make_model("additive"), DROPOUT)
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


def train_ours(text: Bench, attention: str, precision: str) -> Clock:
    """The project's own trainer, with all that it does at each update."""
    model = make_model(attention)
    model.product_dtype = PRODUCTS[precision]
    clock: Clock = []
    settings = load_params().train.model_copy(update={"max_epochs": 1, "label_smoothing": SMOOTHING})
    trainer = Trainer(
        model, text, text, settings, 1, lambda result: clock.append((time.perf_counter(), result.target_tokens))
    )
    list(trainer.epochs())
    return clock


def speed(clock: Clock) -> float:
    """Tokens per second after the warm-up."""
    counted = clock[WARM_UP - 1 :]
    return sum(tokens for _, tokens in counted[1:]) / (counted[-1][0] - counted[0][0])


@torch.no_grad()
def check_same_loss(text: Bench) -> None:
    """The baseline computes the same thing, or the comparison means nothing."""
    model, batch = make_model("additive"), text.batch(text.batches[0])
    ours = model.loss(batch, SMOOTHING)
    logits = Textbook(model, 0.0)(batch).flatten(0, 1)
    theirs = nn.functional.cross_entropy(
        logits, batch.outputs_BT.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING, reduction="sum"
    )
    torch.testing.assert_close(ours.smoothed, theirs, rtol=1e-4, atol=0.0)


def systems(text: Bench) -> dict[str, Callable[[], Clock]]:
    """What is compared, the baseline first."""
    return {
        "textbook, float32": lambda: train_textbook(text),
        "attention, float32": lambda: train_ours(text, "additive", "float32"),
        "attention, bfloat16": lambda: train_ours(text, "additive", "bfloat16"),
        "plain, float32": lambda: train_ours(text, "none", "float32"),
        "plain, bfloat16": lambda: train_ours(text, "none", "bfloat16"),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=45)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    resolve(Runtime(device="cpu", precision="float32", threads=arguments.threads))
    text = Bench.draw(arguments.batches)
    check_same_loss(text)
    speeds: dict[str, list[float]] = {}
    for number in range(arguments.rounds):
        for name, train in systems(text).items():
            speeds.setdefault(name, []).append(speed(train()))
            print(f"round {number + 1}: {name} {speeds[name][-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    baseline = next(iter(speeds.values()))
    print("| system | tokens/s | ratio | range |\n|---|--:|--:|--:|")
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, baseline, strict=True)]
        middle = statistics.median(ratios)
        print(f"| {name} | {statistics.median(values):,.0f} | {middle:.2f} | {min(ratios):.2f} .. {max(ratios):.2f} |")


if __name__ == "__main__":
    main()

"""How large a batch may be before as many tokens teach less, and how fast training is then.

    python benchmarks/batch_size.py --rates 0.004 0.008 0.012    # after `dvc repro tokenize`; an hour and more
    python benchmarks/batch_size.py --rates 0.002 0.004 0.008 --batch-tokens --sentences 256 512 --device cuda

The attention model of the bench shape (train_throughput.py) reads the same number of tokens in batches of 64 sentences
and in ever larger ones (of so many padded tokens, the project's own kind, or of so many sentences), each at several
learning rates, with warm-up and decay over the same tokens; the best of the rates counts, since a larger batch wants a
higher one. Prints for each size the dev loss against that of 64 sentences, tokens per second of the training alone (on
CUDA of the last epoch: by then graphs are recorded), and on a CPU the share of the speed that `linear` reaches.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from train_throughput import SENTENCES, SMOOTHING, make_model, peak

from nmt import paths
from nmt.batching import ParallelText
from nmt.config import Joining, Runtime, Schedule, load_params
from nmt.runtime import PRODUCTS, resolve
from nmt.training import Trainer, UpdateResult

NO_JOINING = Joining(share=0.0, up_to=2)
WARM_UP_SHARE = 0.1
"""Of the tokens of a training."""
WARM_UP_UPDATES = 20
"""Updates that do not count for the speed."""


@dataclass(frozen=True)
class Outcome:
    """What one training came to."""

    dev_loss: float
    tokens_per_second: float
    share_of_peak: float
    updates: int


class BySentences(ParallelText):
    """Batches of so many sentences of similar lengths, in an order drawn for each epoch."""

    sentences = SENTENCES

    def shuffled_plan(self, batch_tokens: int, joining: Joining, keys: Sequence[int]) -> list[np.ndarray]:
        """The same batches in each epoch, whatever `batch_tokens` is."""
        order = np.lexsort((self.source.lengths, self.target.lengths))[:, None]
        starts = np.arange(0, len(order), self.sentences)
        return [order[start : start + self.sentences] for start in np.random.default_rng(keys).permutation(starts)]


@dataclass(frozen=True)
class Size:
    """Of a batch: so many sentences, or so many padded tokens of the longer side."""

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{self.count:,} {self.unit}"

    def open(self) -> ParallelText:
        """The training text, in such batches."""
        text = open_text(BySentences if self.unit == "sentences" else ParallelText, "train")
        if isinstance(text, BySentences):
            text.sentences = self.count
        return text


def open_text(kind: type[ParallelText], split: str) -> ParallelText:
    """Train or dev."""
    return kind.open(*(paths.token_store(split, side) for side in paths.SIDES))


def train(size: Size, rate: float, epochs: int, precision: str, device: torch.device) -> Outcome:
    """Train from the first weights."""
    text, dev = size.open(), open_text(ParallelText, "dev")
    batch_tokens = size.count if size.unit == "tokens" else load_params().train.batch_tokens  # then the dev set's
    updates = epochs * len(text.shuffled_plan(batch_tokens, NO_JOINING, (1, 0)))
    settings = load_params().train.model_copy(
        update={
            "max_epochs": epochs,
            "batch_tokens": batch_tokens,
            "joining": NO_JOINING,
            "learning_rate": rate,
            "schedule": Schedule(warmup_updates=round(WARM_UP_SHARE * updates), decay="linear", final_share=0.05),
            "label_smoothing": SMOOTHING,
        }
    )
    model = make_model("additive").to(device)
    model.product_dtype = PRODUCTS[precision]
    clock: list[tuple[float, int, int]] = []
    by_graphs = device.type == "cuda"
    trainer = Trainer(model, text, dev, settings, 1, lambda one: clock.append(tick(one)), by_graphs=by_graphs)
    history = list(trainer.epochs())
    spans = [
        (now - before, tokens)
        for (before, last, _), (now, epoch, tokens) in pairwise(clock[WARM_UP_UPDATES:])
        if epoch == last  # the first update of an epoch waits for the dev loss
        and (epoch == epochs or not by_graphs)
    ]
    speed = sum(tokens for _, tokens in spans) / sum(seconds for seconds, _ in spans)
    done = trainer.progress
    needed = model.training_flops(done.source_tokens, done.target_tokens, done.pairs) / done.target_tokens
    share = speed * needed / peak(PRODUCTS[precision]) if device.type == "cpu" else float("nan")
    return Outcome(history[-1].dev_loss, speed, share, len(clock))


def tick(result: UpdateResult) -> tuple[float, int, int]:
    """When an update ended, of which epoch it is, and its target tokens."""
    return time.perf_counter(), result.epoch, result.target_tokens


def main() -> None:
    """Train all, and print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-tokens", type=int, nargs="*", default=[1500, 3000, 6000])
    parser.add_argument("--sentences", type=int, nargs="*", default=[])
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", choices=PRODUCTS, default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    runtime = Runtime(device=arguments.device, precision="float32", threads=arguments.threads, kernels="auto")
    device = resolve(runtime).device
    torch.manual_seed(1)
    print("| batch | best rate | dev loss | of 64 sentences' | tokens/s | of linear's speed | updates |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    smallest = 0.0
    others = [Size(count, "tokens") for count in arguments.batch_tokens]
    others += [Size(count, "sentences") for count in arguments.sentences]
    for size in (Size(SENTENCES, "sentences"), *others):
        outcomes = {}
        for rate in arguments.rates:
            outcomes[rate] = train(size, rate, arguments.epochs, arguments.precision, device)
            print(f"{size}, rate {rate}: {outcomes[rate]}", file=sys.stderr, flush=True)
        rate = min(outcomes, key=lambda one: outcomes[one].dev_loss)
        best = outcomes[rate]
        smallest = smallest or best.dev_loss
        speed, share = (
            statistics.median(getattr(one, name) for one in outcomes.values())
            for name in ("tokens_per_second", "share_of_peak")
        )
        print(
            f"| {size} | {rate} | {best.dev_loss:.3f} | "
            f"{best.dev_loss / smallest:.1%} | {speed:,.0f} | {share:.0%} | {best.updates:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

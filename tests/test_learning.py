"""The project's thesis as a test: the summary of a long sentence is not enough, attention is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.batching import ParallelText, TokenStore, pad
from nmt.model.seq2seq import Seq2Seq
from nmt.subwords import BOS, EOS
from nmt.training import Trainer

from .models import learning_model, learning_recipe

FIRST_DIGIT = 4
LENGTHS = (3, 16)


def digits(count: int, seed: int) -> list[list[int]]:
    """Random digit strings of LENGTHS, as ids."""
    random = np.random.default_rng(seed)
    return [
        (FIRST_DIGIT + random.integers(0, 10, random.integers(LENGTHS[0], LENGTHS[1] + 1))).tolist()
        for _ in range(count)
    ]


def reversal(folder: Path, name: str, count: int, seed: int) -> ParallelText:
    """Strings and their reversals in token stores."""
    sources = digits(count, seed)
    TokenStore.write(folder / f"{name}.source", sources)
    TokenStore.write(folder / f"{name}.target", [source[::-1] for source in sources])
    return ParallelText.open(folder / f"{name}.source", folder / f"{name}.target")


def trained(attention: str, folder: Path) -> Seq2Seq:
    """A small model after the same training for every kind of attention."""
    model = Seq2Seq(learning_model(encoder_size=32), attention, 14, 14)
    model.initialize(1)
    train, dev = reversal(folder, "train", 5000, 1), reversal(folder, "dev", 100, 2)
    trainer = Trainer(model, train, dev, learning_recipe(learning_rate=0.006), 1, on_update=lambda _: None)
    for _ in trainer.epochs():
        pass
    return trainer.averaged


@torch.no_grad()
def accuracy(model: Seq2Seq, length: int, count: int = 200) -> float:
    """The share of digits that free-running prediction gets right in strings of one length."""
    random = np.random.default_rng(9)
    sources = FIRST_DIGIT + random.integers(0, 10, (count, length))
    memory = model.encode(*pad([[*row, EOS] for row in sources.tolist()]))
    state, previous, written = model.start(memory), torch.full((count,), BOS), []
    for _ in range(length):
        logits, state, _ = model.step(memory, state, previous)
        previous = logits.argmax(-1)
        written.append(previous)
    return float((torch.stack(written, 1).numpy() == sources[:, ::-1]).mean())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seq2Seq]:
    """Both sides of the comparison."""
    torch.set_num_threads(1)
    return {kind: trained(kind, tmp_path_factory.mktemp(kind)) for kind in ("none", "additive")}


def test_attention_learns_to_reverse(models: dict[str, Seq2Seq]) -> None:
    """With attention nearly every digit is right, at any length."""
    assert accuracy(models["additive"], 8) > 0.95
    assert accuracy(models["additive"], 16) > 0.90


def test_attention_beats_plain_on_the_longest(models: dict[str, Seq2Seq]) -> None:
    """Plain learns short strings, falls behind on long ones, and the gap grows with the length."""
    gaps = [accuracy(models["additive"], length) - accuracy(models["none"], length) for length in (4, 16)]
    assert accuracy(models["none"], 4) > 0.5
    assert gaps[1] > 0.2
    assert gaps[1] > gaps[0]


@torch.no_grad()
def test_attention_looks_at_the_digit_it_writes(models: dict[str, Seq2Seq]) -> None:
    """Reversing, step t must look at position S - 1 - t."""
    sources = digits(50, 11)
    rows, lengths = pad([[*source, EOS] for source in sources])
    inputs, _ = pad([[BOS, *source[::-1]] for source in sources])
    model = models["additive"]
    _, weights = model.force(model.encode(rows, lengths), inputs)
    assert weights is not None
    hits = [
        abs(int(weights[i, t].argmax()) - (len(s) - 1 - t)) <= 1 for i, s in enumerate(sources) for t in range(len(s))
    ]
    assert np.mean(hits) > 0.9

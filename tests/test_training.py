"""The training loop: it learns, it can be cut anywhere, it stops when it should."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nmt.batching import ParallelText, Segmentations, TokenStore
from nmt.checkpoint import load_checkpoint, save_checkpoint
from nmt.config import Train
from nmt.errors import UserError
from nmt.training import EpochResult, Trainer, UpdateResult, evaluate_loss, learning_rate

from .models import tiny_model, with_dropout

RECIPE = {
    "max_epochs": 3,
    "batch_tokens": 60,
    "devices": 1,
    "accumulate": 1,
    "cuda_graphs": False,
    "joining": {"share": 0.3, "up_to": 3},
    "optimizer": "adam",
    "learning_rate": 0.02,
    "betas": [0.9, 0.98],
    "weight_decay": 0.0,
    "schedule": {"warmup_updates": 5, "decay": "linear", "final_share": 0.1},
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "average_decay": 0.9,
    "patience": 3,
}


class Cut(Exception):
    """Stands for a process that ends between two updates."""


def copies(folder: Path, count: int = 60) -> ParallelText:
    """Pairs whose target is the source's first piece."""
    random = np.random.default_rng(1)
    sources = [random.integers(4, 11, random.integers(2, 7)).tolist() for _ in range(count)]
    TokenStore.write(folder / "source", sources)
    TokenStore.write(folder / "target", [source[:1] for source in sources])
    return ParallelText.open(folder / "source", folder / "target")


def spelled(folder: Path, text: ParallelText) -> ParallelText:
    """The same pairs with some source pieces cut in two."""
    sources = [text.source[row].tolist() for row in range(len(text))]
    TokenStore.write(
        folder / "spelled", [[piece for x in source for piece in ([x] if x < 8 else [x - 4, 4])] for source in sources]
    )
    return ParallelText(TokenStore.open(folder / "spelled"), text.target)


def trainer(
    text: ParallelText | Segmentations,
    cut_at: int | None = None,
    attention: str = "additive",
    by_graphs: bool = False,
    **changes: object,
) -> Trainer:
    """A training of a tiny model with dropout; `cut_at` raises Cut after that update."""
    model = with_dropout(tiny_model(attention), 0.2)

    def on_update(result: UpdateResult) -> None:
        if result.update == cut_at:
            raise Cut

    settings = Train.model_validate(RECIPE | changes)
    return Trainer(model, text, text.in_epoch(0), settings, 1, on_update, by_graphs=by_graphs)


def run(training: Trainer) -> list[EpochResult]:
    """All epochs."""
    return list(training.epochs())


def test_training_learns(tmp_path: Path) -> None:
    """Dev loss falls well below that of the first weights and below a uniform guess."""
    text = copies(tmp_path)
    training = trainer(text, max_epochs=30, patience=30)
    first = evaluate_loss(training.model, text, 100)
    history = run(training)
    assert history[-1].dev_loss < 0.5 * first
    assert history[-1].dev_perplexity == pytest.approx(math.exp(history[-1].dev_loss))
    assert [row.epoch for row in history] == list(range(1, 31))


@pytest.mark.parametrize(
    ("optimizer", "sampled", "by_graphs"),
    [("adam", False, False), ("adamw", False, False), ("adam", True, False), ("adam", False, True)],
    ids=["adam", "adamw", "sampled", "by graphs"],
)
@pytest.mark.parametrize("cut_at", [1, 6, 7, 8, 15])
def test_a_cut_training_goes_on_to_the_same_bits(
    tmp_path: Path, cut_at: int, optimizer: str, sampled: bool, by_graphs: bool
) -> None:
    """Cut after any update, also an epoch's last, saved, loaded, resumed: weights and history equal the uncut ones."""
    text: ParallelText | Segmentations = copies(tmp_path)
    if sampled:
        text = Segmentations([text.in_epoch(0), spelled(tmp_path, text.in_epoch(0))])
    whole = trainer(text, optimizer=optimizer, by_graphs=by_graphs)
    expected = run(whole)
    assert expected[0].updates == 7
    cut = trainer(text, cut_at=cut_at, optimizer=optimizer, by_graphs=by_graphs)
    with pytest.raises(Cut):
        run(cut)
    save_checkpoint(tmp_path / "state", cut.checkpoint(), {})
    resumed = trainer(text, optimizer=optimizer, by_graphs=by_graphs)
    loaded = load_checkpoint(tmp_path / "state", {})
    assert loaded is not None
    resumed.restore(loaded)
    run(resumed)
    assert resumed.history == expected
    for name, tensor in whole.checkpoint().tensors.items():
        assert torch.equal(tensor, resumed.checkpoint().tensors[name]), name
    assert resumed.progress == whole.progress


def test_epochs_take_turns_with_the_segmentations(tmp_path: Path) -> None:
    """Each epoch reads the pieces of its own, the first again after the last, and dev stays as it is."""
    best = copies(tmp_path)
    other = spelled(tmp_path, best)
    tokens = [int(text.source.lengths.sum()) + len(text) for text in (best, other)]
    assert tokens[0] < tokens[1]
    training = trainer(Segmentations([best, other]), joining={"share": 0.0, "up_to": 2})
    seen = []
    for _ in training.epochs():
        seen.append(training.progress.source_tokens - sum(seen))
    assert seen == [tokens[0], tokens[1], tokens[0]]
    assert training.history[-1].dev_loss == evaluate_loss(training.averaged, best, RECIPE["batch_tokens"])


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    """Two trainings of one process are equal, although other random numbers were drawn in between."""
    text = copies(tmp_path)
    one = trainer(text)
    run(one)
    torch.rand(5), np.random.default_rng().random()
    other = trainer(text)
    run(other)
    assert all(torch.equal(one.best[name], other.best[name]) for name in one.best)


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    """A rate that is far too high makes dev loss rise: the best epoch's weights stay, and patience ends it."""
    text = copies(tmp_path)
    training = trainer(text, max_epochs=40, patience=2, learning_rate=3.0, average_decay=0.0)
    history = run(training)
    losses = [row.dev_loss for row in history]
    best = losses.index(min(losses)) + 1
    assert training.progress.best_epoch == best
    assert len(history) == min(best + 2, 40) < 40
    model = tiny_model("additive")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(training.best[name])
    assert evaluate_loss(model, text, 60) == pytest.approx(min(losses), rel=1e-6)


def test_without_patience_the_last_weights_stay(tmp_path: Path) -> None:
    """The same training goes on to its end, past the best dev loss, and keeps what it has then."""
    training = trainer(copies(tmp_path), max_epochs=40, patience=0, learning_rate=3.0, average_decay=0.0)
    history = run(training)
    assert len(history) == training.progress.best_epoch == 40
    assert min(row.dev_loss for row in history) < history[-1].dev_loss
    assert all(torch.equal(training.best[name], weight) for name, weight in training.averaged.named_parameters())


def test_a_loss_that_is_not_finite_names_the_place(tmp_path: Path) -> None:
    """Weights that overflow stop training with step, batch and lines, before they are updated."""
    text = copies(tmp_path)
    training = trainer(text)
    with torch.no_grad():
        training.model.bridge.weight.fill_(math.nan)
    place = r"not finite at update 1 \(epoch 1, batch 1 of 7, examples that begin with train lines \d+, \d+"
    with pytest.raises(UserError, match=place):
        run(training)


def test_a_dev_loss_that_is_not_finite_is_no_result(tmp_path: Path) -> None:
    """It is an error, not an epoch without a best one."""
    training = trainer(copies(tmp_path), average_decay=0.5)
    with torch.no_grad():
        training.averaged.bridge.weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"dev loss is not finite after update 7 \(epoch 1\)"):
        run(training)


def test_average_follows_the_weights(tmp_path: Path) -> None:
    """Decay 0 is no average; any other decay trails behind the weights."""
    text = copies(tmp_path)
    without, averaged = trainer(text, average_decay=0.0, max_epochs=1), trainer(text, average_decay=0.99, max_epochs=1)
    run(without), run(averaged)
    assert torch.equal(without.averaged.bridge.weight, without.model.bridge.weight)
    assert not torch.equal(averaged.averaged.bridge.weight, averaged.model.bridge.weight)


@pytest.mark.parametrize(
    ("decay", "update", "done", "expected"),
    [
        ("none", 0, 0.0, 0.2),
        ("none", 4, 0.1, 1.0),
        ("none", 100, 0.9, 1.0),
        ("linear", 100, 0.5, 0.55),
        ("linear", 100, 1.0, 0.1),
        ("cosine", 100, 0.5, 0.55),
        ("cosine", 100, 1.0, 0.1),
        ("inverse_sqrt", 4, 0.1, 1.0),
        ("inverse_sqrt", 19, 0.1, 0.5),
    ],
)
def test_schedules(decay: str, update: int, done: float, expected: float) -> None:
    """Known rates of each schedule, as shares of a peak of 1 with five warm-up updates."""
    settings = Train.model_validate(
        RECIPE | {"learning_rate": 1.0, "schedule": {"warmup_updates": 5, "decay": decay, "final_share": 0.1}}
    )
    assert learning_rate(settings, update, done) == pytest.approx(expected)

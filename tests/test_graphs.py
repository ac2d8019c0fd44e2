"""Gradients of batches in fixed shapes, as CUDA graphs want them: the same as of the batches as they are.

Without CUDA the work is carried out where a graph would be replayed; all else runs as it does there.
"""

from pathlib import Path

import pytest
import torch

from nmt.batching import Batch, ParallelText
from nmt.config import Train
from nmt.distributed import Team
from nmt.graphs import Recorder, Shape, fixed_shape
from nmt.model.seq2seq import Seq2Seq
from nmt.training import Trainer

from .models import tiny_model, with_dropout
from .test_training import RECIPE, copies


def batches(text: ParallelText) -> list[Batch]:
    """Of several shapes, some of the same."""
    return [text.batch(rows) for rows in text.plan(30)]


def model_with_gradients(attention: str, **settings: object) -> Seq2Seq:
    """In float64, with dropout everywhere, and gradients of zero at places that stay."""
    model = with_dropout(tiny_model(attention, **settings), 0.3).double()  # type: ignore[arg-type]
    model.product_dtype = torch.float64
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


@pytest.mark.parametrize(
    ("attention", "settings"),
    [
        ("none", {}),
        ("additive", {}),
        ("additive", {"lexical": True, "word_query": True}),
        ("additive", {"cell": "lstm", "encoder_layers": 2, "decoder_layers": 2, "residual": True, "layer_norm": True}),
        ("general", {"readout": "state", "bidirectional": False}),
        ("dot", {"tie_embeddings": True, "vocabulary": (11, 11)}),
    ],
)
def test_fixed_shapes_change_no_loss_and_no_gradient(
    tmp_path: Path, attention: str, settings: dict[str, object]
) -> None:
    """Batch after batch, one parameter after the other, dropout included; gradients add up."""
    model = model_with_gradients(attention, **settings)
    reference = model_with_gradients(attention, **settings)
    recorder = Recorder(model, smoothing=0.1, seed=3)
    for update, batch in enumerate(batches(copies(tmp_path))):
        plain = recorder.add_gradients(batch, tokens=7, update=update, place=0)
        expected = reference.loss(batch, 0.1, reference.masks(batch.rows, 3, update))
        (expected.smoothed / 7).backward()
        torch.testing.assert_close(plain, expected.plain, rtol=1e-6, atol=1e-6, check_dtype=False)
        for (name, one), other in zip(reference.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(
                other.grad, one.grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_what_fills_a_shape_up_is_felt_nowhere(tmp_path: Path) -> None:
    """A batch in a far larger shape, at once, gives the same gradients."""
    batch = batches(copies(tmp_path))[0]
    gradients = []
    for given in (batch, batch.padded_to(40, 30, 20)):
        model = model_with_gradients("additive")
        loss = model.loss(given, 0.1, model.masks(given.rows, 3, 4))
        loss.smoothed.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_an_update_s_masks_are_those_of_its_number() -> None:
    """Whether it comes as a number or as a tensor that a graph reads."""
    model = with_dropout(tiny_model("additive"), 0.5)
    rows = torch.arange(5)
    one, other = (model.masks(rows, 3, update) for update in (17, torch.tensor(17)))
    torch.testing.assert_close(one.decoder.output, other.decoder.output, rtol=0.0, atol=0.0)
    torch.testing.assert_close(one.source_embedding, other.source_embedding, rtol=0.0, atol=0.0)
    later = model.masks(rows, 3, torch.tensor(18))
    assert not torch.equal(one.source_embedding, later.source_embedding)  # type: ignore[arg-type]


def test_shapes_are_few_and_little_larger() -> None:
    """Sizes up to 2,000 need 64 shapes, and no more than an eighth is added beyond the finest step."""
    sizes = range(1, 2001)
    rounded = [shape_of(size).source for size in sizes]
    assert all(size <= up <= max(size + 3, 1.125 * size) for size, up in zip(sizes, rounded, strict=True))
    assert len(set(rounded)) <= 64
    assert rounded == sorted(rounded)


def shape_of(size: int) -> Shape:
    """Of a batch in which everything is so large."""
    rows = torch.zeros(size, dtype=torch.int64)
    wide = rows.expand(1, -1)
    return fixed_shape(Batch(rows, wide, rows[:1], wide, wide, 0, 0))


def assert_same_state(one: Trainer, other: Trainer) -> None:
    """All that a checkpoint holds, but for last bits."""
    tensors = other.checkpoint().tensors
    for name, expected in one.checkpoint().tensors.items():
        torch.testing.assert_close(
            tensors[name], expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def by_graphs(text: ParallelText, **settings: object) -> Trainer:
    """A training that has not begun."""
    recipe = Train.model_validate(RECIPE | settings)
    return Trainer(tiny_model("additive"), text, text, recipe, 1, lambda _: None, Team(1), by_graphs=True)


def test_a_training_that_was_looked_at_is_the_same_training(tmp_path: Path) -> None:
    """Its state may be asked for before its first update; what is restored later is what it goes on with."""
    text = copies(tmp_path)
    usual, seen, begun, restored = (by_graphs(text) for _ in range(4))
    seen.checkpoint()
    next(begun.epochs())
    for trainer in (usual, seen, restored):
        list(trainer.epochs())
    restored.restore(begun.checkpoint())
    list(restored.epochs())
    assert_same_state(usual, seen)
    assert_same_state(usual, restored)


def test_a_recorded_step_clips(tmp_path: Path) -> None:
    """The gradients are brought to the norm that is allowed, and the norm before is told."""
    text = copies(tmp_path)
    trainer = by_graphs(text, clip_norm=0.25)
    next(trainer.epochs())
    work = trainer._load(text, text.plan(30)[0])
    _, norm = trainer._gradients(work)
    trainer._step(0.001)
    clipped = torch.nn.utils.get_total_norm(
        [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
    )
    assert norm > 0.3
    assert clipped.item() == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 1), (1, 3), (2, 1)])
def test_a_training_by_graphs_is_the_same_training(tmp_path: Path, devices: int, accumulate: int) -> None:
    """Weights, average and moments after three epochs, also in turns or shares; a graph serves many updates."""
    text = copies(tmp_path)
    settings = Train.model_validate(RECIPE | {"devices": devices, "accumulate": accumulate})
    trainings = []
    for recorded in (False, True):
        model = with_dropout(tiny_model("additive"), 0.2)
        trainer = Trainer(model, text, text, settings, 1, lambda _: None, Team(devices), recorded)
        list(trainer.epochs())
        trainings.append(trainer)
    eager, graphed = trainings
    assert_same_state(eager, graphed)
    for kind in ("train_loss", "dev_loss"):
        assert [getattr(row, kind) for row in graphed.history] == pytest.approx(
            [getattr(row, kind) for row in eager.history], rel=1e-5
        )
    assert graphed.recorder is not None
    assert len(graphed.recorder._graphs) < graphed.progress.updates


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_training_is_the_same_training(tmp_path: Path) -> None:
    """On CUDA: weights, their average and the optimizer's moments after three epochs, with graphs and without."""
    text = copies(tmp_path)
    trainers = []
    for recorded in (False, True):
        model = with_dropout(tiny_model("additive"), 0.2).to("cuda")
        settings = Train.model_validate(RECIPE)
        trainer = Trainer(model, text, text, settings, 1, lambda _: None, Team(1), recorded)
        list(trainer.epochs())
        trainers.append(trainer)
    assert_same_state(*trainers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["none", "additive", "general"])
def test_a_recorded_graph_gives_what_its_operations_give(tmp_path: Path, attention: str) -> None:
    """On CUDA: replayed, for several batches of a shape, against the same work without a graph."""
    device = torch.device("cuda")
    model = with_dropout(tiny_model(attention), 0.3).to(device)
    reference = with_dropout(tiny_model(attention), 0.3).to(device)
    for one in (model, reference):
        for parameter in one.parameters():
            parameter.grad = torch.zeros_like(parameter)
    recorder = Recorder(model, smoothing=0.1, seed=3)
    for update, batch in enumerate(2 * batches(copies(tmp_path))):
        plain = recorder.add_gradients(batch, tokens=7, update=update, place=0)
        given = batch.padded_to(*fixed_shape(batch)).to(device)
        expected = reference.loss(given, 0.1, reference.masks(given.rows, 3, update))
        (expected.smoothed / 7).backward()
        torch.testing.assert_close(plain, expected.plain)
        for one, other in zip(reference.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad)


@pytest.mark.parametrize(("fixed", "held"), [(True, ""), (False, "nonzero")])
@pytest.mark.parametrize("attention", ["none", "additive", "general", "dot"])
def test_what_is_recorded_asks_no_tensor_for_what_it_holds(attention: str, fixed: bool, held: str) -> None:
    """On tensors without content all of it runs; of a batch that is not in a fixed shape it could not."""
    model = with_dropout(tiny_model(attention, decoder_layers=2, layer_norm=True), 0.3).to("meta")
    sizes = ((4,), (4, 8), (4,), (4, 8), (4, 8))
    rows, *others = (torch.zeros(size, dtype=torch.int64, device="meta") for size in sizes)
    batch = Batch(rows, *others, source_tokens=9, target_tokens=9, fixed=fixed)

    def work() -> None:
        masks = model.masks(rows, 3, torch.zeros((), dtype=torch.int64, device="meta"))
        model.loss(batch, 0.1, masks).smoothed.backward()  # type: ignore[no-untyped-call]

    if held:
        with pytest.raises(NotImplementedError, match=held):
            work()
    else:
        work()
        assert all(parameter.grad is not None for parameter in model.parameters())

"""The fused recurrences against the step-by-step reference: same numbers, same gradients."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nmt.model.cells import CELLS, step
from nmt.model.decoder import DecoderMasks
from nmt.model.normalization import Norm, normalize
from nmt.model.recurrence import run_sequence
from nmt.model.scorers import SATURATED, AdditiveScorer
from nmt.model.seq2seq import Seq2Seq

from .models import random_sentences, tiny_model, with_dropout


def gradients(model: Seq2Seq, results: tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor | None]:
    """The gradients of a fixed random projection of `results` for every parameter and every leaf."""
    generator = torch.Generator().manual_seed(5)
    projections = [
        (result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum() for result in results
    ]
    wanted = [*model.parameters(), *leaves]
    return list(torch.autograd.grad(torch.stack(projections).sum(), wanted, allow_unused=True))


def decoded(model: Seq2Seq, by_steps: bool, dropout: bool) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
    """Decoder outputs and gradients, fused or step by step."""
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    masks = model.masks(torch.arange(len(source)), seed=3, update=4) if dropout else None
    memory = model.encode(source, lengths, masks)
    embedded = model.target_embedding(inputs.t())
    decoder_masks = masks.decoder if masks else DecoderMasks.none(len(model.decoder.layers))
    decode = model.decoder._decode_by_steps if by_steps else model.decoder.decode
    hidden, contexts, weights = decode(memory, embedded, decoder_masks, torch.float64)
    seen = (hidden, contexts) if weights is None else (hidden, contexts, weights)
    return seen, gradients(model, (hidden, contexts), [])


def disturbed(model: Seq2Seq) -> Seq2Seq:
    """The same model with every parameter moved: first values of zero or one hide what they are multiplied with."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def naming(name: str) -> Callable[[str], str]:
    """What puts a parameter's name before a failure's text."""
    return lambda text: f"{name}: {text}"


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("attention", "layers", "residual", "lexical"),
    [
        *((attention, 1, False, False) for attention in ("none", "additive", "dot", "general")),
        *((attention, layers, residual, residual) for residual in (False, True)
          for attention, layers in (("none", 2), ("additive", 3), ("general", 2))),
        ("additive", 1, False, True),
    ],
)  # fmt: skip
def test_whole_sequence_decoder_equals_the_step_by_step_one(
    attention: str, layers: int, residual: bool, lexical: bool, cell: str, layer_norm: bool, dropout: bool
) -> None:
    """Outputs and each parameter's gradient agree, whatever the cell, attention, depth, normalisation and dropout.

    With a word in the query where there is dropout, for the attentions that have a place for it.
    """
    word_query = dropout and attention != "dot"
    depth = {"decoder_layers": layers, "residual": residual, "lexical": lexical, "word_query": word_query}
    model = tiny_model(attention, cell=cell, layer_norm=layer_norm, **depth)
    model = disturbed(with_dropout(model, 0.3).double())
    expected, expected_gradients = decoded(model, by_steps=True, dropout=dropout)
    actual, actual_gradients = decoded(model, by_steps=False, dropout=dropout)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    for (name, _), left, right in zip(model.named_parameters(), expected_gradients, actual_gradients, strict=True):
        assert (left is None) == (right is None), name
        if left is not None:
            torch.testing.assert_close(right, left, rtol=1e-8, atol=1e-10, msg=naming(name))


@pytest.mark.parametrize("size", [1.0, 30.0, 43.0, 1000.0])
def test_additive_scores_of_any_size(size: float) -> None:
    """float32 scores stay right where exponentials leave its range, unless query and key both do, in opposite ways."""
    generator = torch.Generator().manual_seed(3)
    keys, queries = (size * torch.randn(shape, generator=generator) for shape in ((2, 5, 7), (3, 2, 7)))
    keys = torch.where(queries[0][:, None] * keys < 0.0, keys.clamp(-SATURATED, SATURATED), keys)
    weight = torch.randn(7, generator=generator)
    scorer = AdditiveScorer(keys, weight, 3)
    scores = scorer.forward(0, queries[0])
    expected = torch.tanh(keys.double() + queries[0, :, None].double()) @ weight.double()
    constant = (scores - expected).mean(1, keepdim=True)  # softmax does not see it
    torch.testing.assert_close(scores - constant, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["none", "additive", "dot"])
def test_the_way_back_can_be_gone_twice(attention: str) -> None:
    """What a step leaves for the way back is not used up by it."""
    model = tiny_model(attention)
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    logits, _ = model.force(model.encode(source, lengths), inputs)
    first, second = (
        torch.autograd.grad(logits.square().sum(), list(model.parameters()), retain_graph=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("attention", ["none", "additive", "dot"])
def test_nothing_keeps_a_finished_update(attention: str) -> None:
    """Memory comes back when the last name of a loss is gone, not when Python looks for cycles."""
    model = tiny_model(attention)
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    gc.collect()
    gc.disable()
    try:
        logits, _ = model.force(model.encode(source, lengths), inputs)
        torch.autograd.grad(logits.sum(), list(model.parameters()))
        del logits
        buffers = [
            thing for thing in gc.get_objects() if type(thing).__name__ in ("_GruTape", "_Running", "AdditiveScorer")
        ]
    finally:
        gc.enable()
    assert buffers == []


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sequence_equals_torch(cell: str) -> None:
    """One direction without dropout is torch.nn.GRU and torch.nn.LSTM, in outputs and in gradients."""
    torch.manual_seed(1)
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell]
    reference = kind(5, 7).double()
    inputs = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    start = tuple(torch.randn(1, 3, 7, dtype=torch.float64) for _ in range(2 if cell == "lstm" else 1))
    expected, _ = reference(inputs, start if cell == "lstm" else start[0])
    weights = [reference.weight_ih_l0, reference.bias_ih_l0, reference.weight_hh_l0, reference.bias_hh_l0]
    projected = (inputs @ weights[0].t() + weights[1])[:, None]
    actual = run_sequence(cell, projected, start, weights[2][None], weights[3][None], None, torch.float64)
    torch.testing.assert_close(actual[:, 0], expected)
    probe = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((expected * probe).sum(), [inputs, *weights]),
        torch.autograd.grad((actual[:, 0] * probe).sum(), [inputs, *weights]),
        strict=True,
    ):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sequence_gradients_are_the_numeric_ones(cell: str, layer_norm: bool) -> None:
    """Finite differences agree in float64, with two directions, a dropout mask, first state and gains included."""
    torch.manual_seed(2)
    gates, states = {"gru": (3, 1), "lstm": (4, 2)}[cell]
    size = 3
    free = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(4, 2, 2, gates * size), (2, gates * size, size), (2, gates * size)]
    ]
    start = [torch.randn(2, 2, size, dtype=torch.float64, requires_grad=True) for _ in range(states)]
    mask = torch.tensor([[[2.0, 0.0, 2.0]]], dtype=torch.float64).expand(2, 2, 3)
    gains = [
        torch.randn(2, 1, gates * size, dtype=torch.float64, requires_grad=True) for _ in Norm._fields if layer_norm
    ]

    def run(inputs: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        norm = Norm(*rest[states:]) if layer_norm else None
        return run_sequence(cell, inputs, rest[:states], weight, bias, mask, torch.float64, norm)

    assert torch.autograd.gradcheck(run, (*free, *start, *gains))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_normalised_cell_is_torch_s_cell_on_normalised_projections(cell: str) -> None:
    """Each gate of each projection goes through torch.nn.LayerNorm before the gates, as the paper has it."""
    torch.manual_seed(4)
    kind, size = CELLS[cell], 5
    inputs, recurrent = torch.randn(2, 3, kind.gates * size).unbind(0)
    state = tuple(torch.randn(kind.states, 3, size).unbind(0))
    norm = Norm(*torch.randn(4, kind.gates * size).unbind(0))
    layers = []
    for gain, shift in ((norm.input_gain, norm.input_shift), (norm.hidden_gain, norm.hidden_shift)):
        for part_gain, part_shift in zip(gain.split(size), shift.split(size), strict=True):
            layers.append(torch.nn.LayerNorm(size))
            layers[-1].weight.data, layers[-1].bias.data = part_gain, part_shift
    parts = [*inputs.split(size, dim=-1), *recurrent.split(size, dim=-1)]
    normed = [layer(part) for layer, part in zip(layers, parts, strict=True)]
    expected = step(kind, torch.cat(normed[: kind.gates], -1), torch.cat(normed[kind.gates :], -1), state)
    actual = step(kind, *normalize(norm, inputs, recurrent, size), state)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one)


def test_bfloat16_products_stay_close() -> None:
    """bfloat16 operands change the loss by less than their 8 bits of precision could explain."""
    model = tiny_model("additive")
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    with torch.no_grad():
        exact, _ = model.force(model.encode(source, lengths), inputs)
        model.product_dtype = torch.bfloat16
        rounded, _ = model.force(model.encode(source, lengths), inputs)
    assert rounded.dtype is torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.03)

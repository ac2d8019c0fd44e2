"""Attention that is disturbed at prediction."""

import pytest
import torch
from torch import Tensor

from nmt.ablation import ABLATIONS, ablated
from nmt.model.seq2seq import Seq2Seq
from tests.models import random_sentences, tiny_model


def first_look(model: Seq2Seq, name: str | None) -> tuple[Tensor, Tensor | None]:
    """The context and the weights of the first step over two sentences, of 6 pieces and of 1."""
    rows, lengths = random_sentences(model, 3, "source", batch=2)
    memory = model.encode(rows, lengths)
    query = memory.start.tensors[0][-1]
    arguments = (query, memory.keys_BSA, memory.values_BSC, memory.padding_BS)
    if name is None:
        return model.decoder.attention(*arguments)
    with ablated(model, name):
        return model.decoder.attention(*arguments)


@pytest.mark.parametrize("kind", ["additive", "general", "dot"])
@torch.no_grad()
def test_uniform_is_the_mean_of_the_real_positions(kind: str) -> None:
    """Padding has no part in it."""
    model = tiny_model(kind)
    context, weights = first_look(model, "uniform")
    assert weights is not None
    assert weights.tolist() == [pytest.approx([1 / 6] * 6), [1.0, 0, 0, 0, 0, 0]]
    rows, lengths = random_sentences(model, 3, "source", batch=2)
    values = model.encode(rows, lengths).values_BSC
    torch.testing.assert_close(context, torch.stack([values[0].mean(0), values[1, 0]]))


@pytest.mark.parametrize("kind", ["additive", "general", "dot"])
@torch.no_grad()
def test_shifted_moves_each_weight_by_one(kind: str) -> None:
    """The last real position's goes to the first, not to the padding; a sentence of one piece stays as it is."""
    model = tiny_model(kind)
    _, whole = first_look(model, None)
    context, weights = first_look(model, "shifted")
    assert whole is not None
    assert weights is not None
    torch.testing.assert_close(weights[0], whole[0].roll(1))
    torch.testing.assert_close(weights[1], whole[1])
    rows, lengths = random_sentences(model, 3, "source", batch=2)
    values = model.encode(rows, lengths).values_BSC
    torch.testing.assert_close(context, (weights[:, None] @ values).squeeze(1))


@pytest.mark.parametrize(("bidirectional", "lexical"), [(True, False), (False, False), (True, True)])
@torch.no_grad()
def test_frozen_is_the_summary(bidirectional: bool, lexical: bool) -> None:
    """What each direction of the encoder ended with, whatever the query, and no word; it has no weights."""
    model = tiny_model("additive", bidirectional=bidirectional, lexical=lexical)
    context, weights = first_look(model, "frozen")
    assert weights is None
    rows, lengths = random_sentences(model, 3, "source", batch=2)
    embedded = model.source_embedding(rows.t())
    masks = [None] * len(model.encoder.layers)
    _, summary = model.encoder(embedded, lengths, masks, None, torch.float32)
    torch.testing.assert_close(context[:, :8], summary)
    assert context[:, 8:].tolist() == [[0.0] * 6] * 2 if lexical else context.shape == summary.shape


@torch.no_grad()
def test_the_model_is_whole_again_afterwards() -> None:
    """Also when the block fails; while it lasts, forced decoding and single steps see the same disturbance."""
    model = tiny_model("additive")
    rows, lengths = random_sentences(model, 3, "source")
    inputs, _ = random_sentences(model, 4, "target")
    before, _ = model.force(model.encode(rows, lengths), inputs)
    for name in ABLATIONS:
        with ablated(model, name):
            memory = model.encode(rows, lengths)
            forced, _ = model.force(memory, inputs)
            stepped, _, _ = model.step(memory, model.start(memory), inputs[:, 0])
        torch.testing.assert_close(forced[:, 0], stepped)
        assert (forced - before).abs().max() > 1e-3, name
    with pytest.raises(KeyError), ablated(model, "uniform"):
        raise KeyError
    torch.testing.assert_close(model.force(model.encode(rows, lengths), inputs)[0], before, rtol=0, atol=0)

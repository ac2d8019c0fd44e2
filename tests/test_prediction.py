"""What search asks of a model, against the model in its readable form."""

import functools

import pytest
import torch

from nmt import prediction
from nmt.ensemble import Ensemble
from nmt.model.seq2seq import Seq2Seq
from nmt.places import Places
from nmt.prediction import Predictor
from nmt.search import beam_search, greedy_search

from .models import random_sentences, tiny_model

KINDS = ["none", "additive", "dot", "general"]
PENALTIES = {"length_penalty": 1.0, "coverage_penalty": 0.2}
PLACES = Places.of(torch.tensor([[True, True, True], [False, True, False], [False] * 3, [True, False, True]]))


def loud(model: Seq2Seq) -> Seq2Seq:
    """With weights that make a model of its own mind, in every place."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            random = torch.Generator().manual_seed(i)
            parameter.mul_(2.0).add_(0.3 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return model


def assert_same_steps(model: Seq2Seq, tolerance: float) -> None:
    """Three steps: a row each, three rows a sentence, some of them ended."""
    predictor, (source, lengths) = Predictor(model), random_sentences(model, 3, "source")
    with torch.inference_mode():
        memory, read = model.encode(source, lengths), predictor.encode(source, lengths)
        state, own = model.start(memory), predictor.start(read)
        words = torch.arange(4, 10)
        for places, origin in (
            (Places(4, 1, None), torch.arange(4)),
            (Places(4, 3, None), torch.arange(4).repeat_interleave(3)),
            (PLACES, torch.tensor([2, 0, 1, 4, 10, 9])),
        ):
            state, own = state.select(origin), own.select(origin)
            previous = words.repeat(2)[: len(origin)]
            logits, state, weights = model.step(memory, state, previous, places)
            actual, own, looked = predictor.step(read, own, previous, places)
            torch.testing.assert_close(actual, logits, rtol=tolerance, atol=tolerance)
            for tensor, expected in zip(own.tensors, state.tensors, strict=True):
                torch.testing.assert_close(tensor, expected, rtol=tolerance, atol=tolerance)
            assert (looked is None) == (weights is None) == (not model.has_attention)
            if weights is not None:
                torch.testing.assert_close(looked, weights, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cells", [0, prediction.TABLE_CELLS])
@pytest.mark.parametrize("readout", ["deep", "state"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_models(
    kind: str, cell: str, layers: int, readout: str, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits, states and weights; with a table of words and without, normalised, residual, lexical, asked by words."""
    monkeypatch.setattr(prediction, "TABLE_CELLS", cells)
    monkeypatch.setattr(prediction, "_CACHED_CELLS", 250)  # sums of query and key for two sentences' three places
    odd = (layers + KINDS.index(kind)) % 2 == 1
    for normalized, residual, lexical in ((False, False, odd), (True, True, not odd), (odd, not odd, True)):
        model = tiny_model(
            kind, cell=cell, decoder_layers=layers, readout=readout, layer_norm=normalized, residual=residual,
            lexical=lexical, word_query=odd and kind != "dot",
        )  # fmt: skip
        assert_same_steps(loud(model), 1e-3)
        assert_same_steps(model.double(), 1e-9)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), ["additive", "none"], ["none", "none"]])
def test_searches_find_the_same(kinds: list[str]) -> None:
    """In float32: ids, lengths and, but for last bits, scores and attention, from both searches; ensembles, too."""
    models = [loud(tiny_model(kind, vocabulary=(13, 1600), seed=5 + i)) for i, kind in enumerate(kinds)]
    source, lengths = random_sentences(models[0], 7, "source", batch=40, longest=9)
    for search in (greedy_search, functools.partial(beam_search, beam_size=4, n_best=3)):
        expected, found = (
            search(Ensemble(members), source, lengths, **PENALTIES, max_lengths_B=lengths + 8)
            for members in (models, [Predictor(model) for model in models])
        )
        assert torch.equal(found.ids_BNT, expected.ids_BNT)
        assert torch.equal(found.lengths_BN, expected.lengths_BN)
        torch.testing.assert_close(found.scores_BN, expected.scores_BN, rtol=1e-4, atol=1e-4)
        assert (found.attention_BNTS is None) == (set(kinds) == {"none"})
        torch.testing.assert_close(found.attention_BNTS, expected.attention_BNTS, rtol=1e-3, atol=1e-4)


def test_large_scores() -> None:
    """Within the bound for keys nothing is lost; beyond it, and with queries of any size, all stays finite."""
    model = tiny_model("additive")
    with torch.no_grad():
        model.decoder.attention.get_parameter("query.weight").mul_(1000.0)
        model.decoder.attention.get_parameter("key.weight").mul_(40.0)
        keys = model.encode(*random_sentences(model, 3, "source")).keys_BSA
    assert 20.0 < float(keys.abs().max()) < 44.0
    assert_same_steps(model.double(), 1e-9)
    assert_same_steps(model.float(), 1e-3)
    with torch.no_grad():
        model.decoder.attention.get_parameter("key.weight").mul_(40.0)
    predictor, (source, lengths) = Predictor(model), random_sentences(model, 3, "source")
    with torch.inference_mode():
        read = predictor.encode(source, lengths)
        logits, _, weights = predictor.step(read, predictor.start(read), torch.arange(4, 8), Places(4, 1, None))
    assert weights is not None
    assert logits.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.ones(4))


def test_a_changed_model_needs_a_new_predictor() -> None:
    """Tables and packed weights would be the old ones."""
    model = tiny_model("additive")
    predictor, sentences = Predictor(model), random_sentences(model, 3, "source")
    with torch.no_grad():
        predictor.encode(*sentences)
        model.output.bias.add_(1.0)
        with pytest.raises(AssertionError, match="needs a new predictor"):
            predictor.encode(*sentences)


def test_selected_sentences_keep_their_own() -> None:
    """What is read of a sentence goes with it."""
    model = loud(tiny_model("general", lexical=True))
    predictor, (source, lengths) = Predictor(model), random_sentences(model, 3, "source")
    kept, words = torch.tensor([3, 0]), torch.arange(4, 8)
    with torch.inference_mode():
        read = predictor.encode(source, lengths)
        whole, _, _ = predictor.step(read, predictor.start(read), words, Places(4, 1, None))
        chosen = read.select(kept)
        some, _, _ = predictor.step(chosen, predictor.start(chosen), words[kept], Places(2, 1, None))
    torch.testing.assert_close(some, whole[kept])


def test_rows_and_places() -> None:
    """There and back; what is not filled is zero on the way, and known by its sentence."""
    rows = torch.arange(1.0, 13.0).view(6, 2)
    spread = PLACES.spread(rows)
    assert spread.tolist() == [
        [[1, 2], [3, 4], [5, 6]], [[0, 0], [7, 8], [0, 0]], [[0, 0]] * 3, [[9, 10], [0, 0], [11, 12]],
    ]  # fmt: skip
    assert torch.equal(PLACES.collect(spread), rows)
    assert PLACES.sentence_R(rows.device).tolist() == [0, 0, 0, 1, 3, 3]
    assert PLACES.rows_in(torch.tensor([11, 4, 2, 0])).tolist() == [5, 3, 2, 0]
    whole = Places.of(torch.ones(2, 3, dtype=torch.bool))
    assert whole.filled_R is None
    assert torch.equal(whole.spread(rows), rows.view(2, 3, 2))
    assert torch.equal(whole.collect(rows.view(2, 3, 2)), rows)
    assert whole.sentence_R(rows.device).tolist() == [0, 0, 0, 1, 1, 1]
    assert whole.rows_in(torch.tensor([4, 1])).tolist() == [4, 1]
    assert [places.one_each for places in (Places(3, 1, None), whole, Places(2, 1, torch.tensor([1])))] == [
        True,
        False,
        False,
    ]

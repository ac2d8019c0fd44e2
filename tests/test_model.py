"""What the model computes, and what must not change it."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nmt.batching import Batch
from nmt.errors import UserError
from nmt.model.attention import AdditiveAttention, GeneralAttention
from nmt.model.decoder import Memory
from nmt.model.encoder import RecurrentLayer
from nmt.model.output import smoothed_cross_entropy
from nmt.model.seq2seq import Seq2Seq

from .models import model_settings, random_sentences, tiny_model, with_dropout

KINDS = ["none", "additive", "dot", "general"]


def batch_of(model: Seq2Seq, rows: list[int], extra: int = 0) -> Batch:
    """Some of four fixed sentence pairs, with `extra` columns of padding."""
    (source, source_lengths), (target, target_lengths) = (
        random_sentences(model, seed=seed, side=side) for seed, side in ((1, "source"), (2, "target"))
    )
    rows_B = torch.tensor(rows)
    inputs = functional.pad(target, (1, extra), value=0)
    inputs[:, 0] = 2
    outputs = functional.pad(target, (0, 1 + extra), value=0)
    outputs[torch.arange(4), target_lengths] = 3
    return Batch(
        rows_B,
        functional.pad(source, (0, extra))[rows_B],
        source_lengths[rows_B],
        inputs[rows_B],
        outputs[rows_B],
        int(source_lengths[rows_B].sum()),
        int(target_lengths[rows_B].sum()) + len(rows),
    )


def textbook_step(
    model: Seq2Seq, memory_values: Tensor, length: int, state: Tensor, word: int
) -> tuple[Tensor, Tensor]:
    """One GRU step with additive attention for one sentence, equation by equation.

    Bahdanau et al. 2015, A.1 and A.2.2.
    """
    decoder, attention = model.decoder, model.decoder.attention
    assert isinstance(attention, AdditiveAttention)
    energies = []
    for position in range(length):
        query = torch.cat([state, model.target_embedding.weight[word]]) if decoder.word_query else state
        inner = attention.query.weight @ query + attention.key.weight @ memory_values[position][:8] + attention.key.bias
        energies.append(attention.weight @ torch.tanh(inner))
    alpha = torch.exp(torch.stack(energies)) / torch.exp(torch.stack(energies)).sum()
    context = torch.stack([alpha[position] * memory_values[position] for position in range(length)]).sum(0)
    embedded = model.target_embedding.weight[word]
    layer = decoder.recurrent[0]
    entering = torch.cat([embedded, context])
    size = len(state)
    weights_in, weights_rec = torch.split(layer.input_weight[0], size), torch.split(layer.hidden_weight[0], size)
    bias_in, bias_rec = torch.split(layer.input_bias[0], size), torch.split(layer.hidden_bias[0], size)
    reset = torch.sigmoid(weights_in[0] @ entering + bias_in[0] + weights_rec[0] @ state + bias_rec[0])
    update = torch.sigmoid(weights_in[1] @ entering + bias_in[1] + weights_rec[1] @ state + bias_rec[1])
    candidate = torch.tanh(weights_in[2] @ entering + bias_in[2] + reset * (weights_rec[2] @ state + bias_rec[2]))
    new = (1 - update) * candidate + update * state
    readout = torch.tanh(decoder.readout.weight @ torch.cat([new, context, embedded]) + decoder.readout.bias)
    if decoder.lexical is not None:
        words = torch.tanh(context[8:])
        readout = readout + torch.tanh(decoder.lexical.weight @ words + decoder.lexical.bias) + words
    return model.target_embedding.weight @ readout + model.output.bias, new


@pytest.mark.parametrize(("lexical", "word_query"), [(False, False), (True, False), (True, True)])
def test_the_whole_model_is_the_textbook_equations(lexical: bool, word_query: bool) -> None:
    """Logits and gradients of a teacher-forced sentence equal the equations written out, in float64."""
    model = tiny_model("additive", lexical=lexical, word_query=word_query).double()
    source, lengths = random_sentences(model, seed=1, side="source", batch=2)
    memory = model.encode(source, lengths)
    words = [2, 5, 7, 6]
    actual, _ = model.force(memory, torch.tensor([words, words]))
    for row in range(2):
        state, expected = memory.start.tensors[0][0, row], []
        for word in words:
            logits, state = textbook_step(model, memory.values_BSC[row], int(lengths[row]), state, word)
            expected.append(logits)
        torch.testing.assert_close(actual[row], torch.stack(expected))
        probe = torch.randn(4, 11, dtype=torch.float64)
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith("decoder")]
        one = torch.autograd.grad((torch.stack(expected) * probe).sum(), parameters, retain_graph=True)
        other = torch.autograd.grad((actual[row] * probe).sum(), parameters, retain_graph=True)
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left, right)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_encoder_equals_torch_on_packed_sentences(cell: str, bidirectional: bool) -> None:
    """Outputs and summary equal torch's own layers over packed sequences: both directions end at real tokens."""
    model = tiny_model("additive", cell=cell, bidirectional=bidirectional)
    layer = model.encoder.layers[0]
    assert isinstance(layer, RecurrentLayer)
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell]
    reference = kind(6, layer.hidden_weight.shape[-1], bidirectional=bidirectional)
    with torch.no_grad():
        for d, suffix in enumerate(["l0", "l0_reverse"][: model.encoder.directions]):
            for ours, theirs in (
                ("input_weight", "weight_ih"),
                ("input_bias", "bias_ih"),
                ("hidden_weight", "weight_hh"),
                ("hidden_bias", "bias_hh"),
            ):
                getattr(reference, f"{theirs}_{suffix}").copy_(getattr(layer, ours)[d])
        source, lengths = random_sentences(model, seed=1, side="source")
        embedded = model.source_embedding(source.t())
        packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, lengths, enforce_sorted=False)
        outputs, final = reference(packed)
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs)
        final = final[0] if cell == "lstm" else final
        actual, summary = model.encoder(embedded, lengths, [None], None, torch.float32)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(summary, torch.cat(list(final), dim=-1))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("encoder_layers", "decoder_layers", "residual", "lexical"),
    [(1, 1, False, False), (1, 1, False, True), (2, 2, False, False), (3, 2, True, True)],
)
def test_neither_padding_nor_company_changes_a_loss(
    kind: str, encoder_layers: int, decoder_layers: int, residual: bool, lexical: bool, dropout: float
) -> None:
    """A sentence has the same loss alone, padded, and anywhere in a batch; with dropout too: masks follow sentences."""
    depth = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers, "residual": residual}
    model = with_dropout(tiny_model(kind, lexical=lexical, **depth), dropout)

    def total(*batches: Batch) -> Tensor:
        return sum((model.loss(b, 0.1, model.masks(b.rows, 1, 2)).smoothed for b in batches), torch.zeros(()))

    expected = total(batch_of(model, [0, 1, 2, 3]))
    torch.testing.assert_close(total(batch_of(model, [3, 1, 0, 2], extra=5)), expected)
    torch.testing.assert_close(total(*(batch_of(model, [row]) for row in range(4))), expected)


def test_a_dropped_piece_is_missing_wherever_it_stands() -> None:
    """For one example, word dropout is embeddings some of whose rows are zero and the others scaled: the same loss.

    Which rows is drawn for each example, update and side; the output layer keeps all.
    """
    model = tiny_model("additive")
    model.output.weight = torch.nn.Parameter(model.output.weight.detach().clone())
    rates = model.settings.dropout.model_copy(update={"word": 0.4})
    model.settings = model.settings.model_copy(update={"dropout": rates})
    seen = set()
    for row, update in [(0, 1), (0, 2), (2, 1)]:
        batch = batch_of(model, [row])
        masks = model.masks(batch.rows, seed=1, update=update)
        assert masks.source_words is not None
        assert masks.target_words is not None
        scaled = copy.deepcopy(model)
        for words, embedding in (
            (masks.source_words, scaled.source_embedding),
            (masks.target_words, scaled.target_embedding),
        ):
            keep_V = words.at(torch.arange(embedding.num_embeddings))[0]
            assert set(keep_V.tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
            seen.add(tuple(keep_V[:11].tolist()))
            with torch.no_grad():
                embedding.weight *= keep_V[:, None]
        torch.testing.assert_close(model.loss(batch, 0.1, masks), scaled.loss(batch, 0.1))
    assert len(seen) == 6


@pytest.mark.parametrize("dropout", [False, True])
def test_a_residual_layer_adds_to_its_input(dropout: bool) -> None:
    """Layers whose states stay zero are no layers: what they were given, before dropout, is what they hand on."""
    deep = tiny_model("none", encoder_layers=3, decoder_layers=3, residual=True)
    flat = tiny_model("none")
    with torch.no_grad():
        deep.bridge.weight.zero_(), flat.bridge.weight.zero_()
        for layer in (*deep.encoder.layers[1:], *deep.decoder.layers[1:]):
            for parameter in layer.parameters():
                parameter.zero_()
    mask = torch.tensor([0.0, 2.0] * 4) if dropout else None
    source, lengths = random_sentences(deep, seed=1, side="source")
    embedded = deep.source_embedding(source.t())
    outputs, expected = (
        model.encoder(embedded, lengths, [None] * len(model.encoder.layers), mask, torch.float32)
        for model in (deep, flat)
    )
    torch.testing.assert_close(outputs, expected, rtol=0.0, atol=0.0)
    inputs, _ = random_sentences(deep, seed=2, side="target")
    forced, expected_forced = (model.force(model.encode(source, lengths), inputs)[0] for model in (deep, flat))
    assert forced.std() > 0.01
    torch.testing.assert_close(forced, expected_forced, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_attention_rows_sum_to_one_and_are_zero_on_padding(kind: str) -> None:
    """Weights are a distribution over real source words."""
    model = tiny_model(kind)
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    _, weights = model.force(model.encode(source, lengths), inputs)
    assert weights is not None
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    padding = (torch.arange(source.shape[1]) >= lengths[:, None])[:, None].expand_as(weights)
    assert padding.any()
    assert (weights[padding] == 0).all()
    assert (weights[~padding] > 0).all()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_equals_forced(kind: str, cell: str) -> None:
    """Feeding the reference word by word gives the teacher-forced logits and weights."""
    model = tiny_model(kind, cell=cell, decoder_layers=2)
    source, lengths = random_sentences(model, seed=1, side="source")
    inputs, _ = random_sentences(model, seed=2, side="target")
    memory = model.encode(source, lengths)
    expected, expected_weights = model.force(memory, inputs)
    state = model.start(memory)
    for t in range(inputs.shape[1]):
        logits, state, weights = model.step(memory, state, inputs[:, t])
        torch.testing.assert_close(logits, expected[:, t])
        assert (weights is None) == (kind == "none")
        if weights is not None and expected_weights is not None:
            torch.testing.assert_close(weights, expected_weights[:, t])


def test_select_moves_whole_sentences() -> None:
    """Selecting rows of memory and state selects the predictions."""
    model = tiny_model("additive")
    memory = model.encode(*random_sentences(model, seed=1, side="source"))
    index = torch.tensor([2, 0, 2])
    previous = torch.tensor([4, 5, 6, 7])
    logits, state, _ = model.step(memory, model.start(memory), previous)
    chosen, chosen_state, _ = model.step(memory.select(index), model.start(memory).select(index), previous[index])
    torch.testing.assert_close(chosen, logits[index])
    torch.testing.assert_close(chosen_state.tensors[0], state.select(index).tensors[0])


def test_plain_sees_the_source_through_the_summary_only() -> None:
    """Without attention the decoder's memory has one position, the bridge's state, and no weights."""
    model = tiny_model("none")
    memory = model.encode(*random_sentences(model, seed=1, side="source"))
    assert memory.values_BSC.shape == (4, 1, 8)
    torch.testing.assert_close(memory.values_BSC[:, 0], memory.start.tensors[0][-1])
    assert model.step(memory, model.start(memory), torch.full((4,), 2))[2] is None


@pytest.mark.parametrize("chunk", [3, 2048])
def test_smoothed_cross_entropy_equals_torch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients equal torch's, whatever the chunk; scaled gradients are scaled."""
    monkeypatch.setattr("nmt.model.output.CHUNK", chunk)
    torch.manual_seed(1)
    readout, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in [(7, 4), (9, 4), (9,)]
    )
    targets = torch.randint(0, 9, (7,))
    expected = functional.cross_entropy(readout @ weight.t() + bias, targets, label_smoothing=0.1, reduction="sum")
    smoothed, plain = smoothed_cross_entropy(readout, weight, bias, targets, 0.1, torch.float64)
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(
        plain, functional.cross_entropy(readout @ weight.t() + bias, targets, reduction="sum").detach()
    )
    for one, other in zip(
        torch.autograd.grad(expected / 3, [readout, weight, bias]),
        torch.autograd.grad(smoothed / 3, [readout, weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(other, one)


def test_the_loss_of_a_sure_model_is_not_rounded_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients (dev loss) it is as exact as bfloat16 logits, although a probability of 0.998 rounds to 1."""
    monkeypatch.setattr("nmt.model.compiled._allowed", False)
    readout, weight = 12.0 * torch.eye(8), torch.eye(8)  # each word has a p of 0.99996
    with torch.no_grad():
        _, plain = smoothed_cross_entropy(readout, weight, torch.zeros(8), torch.arange(8), 0.0, torch.bfloat16)
    torch.testing.assert_close(plain, functional.cross_entropy(readout, torch.arange(8), reduction="sum"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_smoothed_cross_entropy_in_lower_precision(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of unequal sizes, and a target so improbable that no float holds its probability, change nothing."""
    monkeypatch.setattr("nmt.model.output.CHUNK", 48)
    torch.manual_seed(1)
    values = [torch.randn(shape, requires_grad=True) for shape in [(112, 32), (64, 32), (64,)]]
    readout, weight, bias = values
    with torch.no_grad():
        bias[5] = -200.0
    targets = torch.randint(0, 64, (112,))
    targets[0], targets[100] = 5, 5
    expected = functional.cross_entropy(readout @ weight.t() + bias, targets, label_smoothing=0.1, reduction="sum")
    smoothed, plain = smoothed_cross_entropy(readout, weight, bias, targets, 0.1, dtype)
    torch.testing.assert_close(smoothed, expected, rtol=tolerance, atol=0.0)
    exact = functional.cross_entropy(readout @ weight.t() + bias, targets, reduction="sum").detach()
    torch.testing.assert_close(plain, exact, rtol=tolerance, atol=0.0)
    for one, other in zip(torch.autograd.grad(expected, values), torch.autograd.grad(smoothed, values), strict=True):
        torch.testing.assert_close(other, one, rtol=0.0, atol=tolerance * float(one.abs().max()))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_one_gradient_of_the_loss_alone(wanted: int) -> None:
    """What needs none of the others' gradients gets its own."""
    torch.manual_seed(1)
    values = [torch.randn(shape, dtype=torch.float64) for shape in [(7, 4), (9, 4), (9,)]]
    values[wanted].requires_grad_()
    readout, weight, bias = values
    targets = torch.randint(0, 9, (7,))
    expected = functional.cross_entropy(readout @ weight.t() + bias, targets, label_smoothing=0.1, reduction="sum")
    smoothed, _ = smoothed_cross_entropy(readout, weight, bias, targets, 0.1, torch.float64)
    (one,), (other,) = (torch.autograd.grad(loss, values[wanted]) for loss in (expected, smoothed))
    torch.testing.assert_close(other, one)


@pytest.mark.parametrize("kind", ["none", "additive"])
def test_one_embedding_for_all(kind: str) -> None:
    """Source, target and output are one parameter, whose gradient is the sum of the three; padding stays unseen."""
    tied = tiny_model(kind, vocabulary=(11, 11), tie_embeddings=True).double()
    apart = tiny_model(kind, vocabulary=(11, 11)).double()
    apart.output.weight = torch.nn.Parameter(apart.output.weight.detach().clone())
    with torch.no_grad():
        tied.source_embedding.weight[0] = 0.5  # as an output layer learns it
        for name, parameter in apart.named_parameters():
            twin = tied.source_embedding.weight if "embedding" in name or name == "output.weight" else None
            parameter.copy_(dict(tied.named_parameters())[name] if twin is None else twin)
    assert len(list(tied.parameters())) == len(list(apart.parameters())) - 2
    rows = [0, 1, 2, 3]
    losses = [model.loss(batch_of(model, rows), 0.1).smoothed for model in (tied, apart)]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(tied.loss(batch_of(tied, rows, extra=3), 0.1).smoothed, losses[0])
    (total,) = torch.autograd.grad(losses[0], [tied.source_embedding.weight])
    parts = torch.autograd.grad(
        losses[1], [apart.source_embedding.weight, apart.target_embedding.weight, apart.output.weight]
    )
    torch.testing.assert_close(total, sum(parts))
    assert sum(tied.parameters_by_part().values()) == sum(parameter.numel() for parameter in tied.parameters())


def test_one_embedding_wants_one_vocabulary() -> None:
    """Sizes that differ are refused with the way out."""
    with pytest.raises(UserError, match="13 source and 11 target pieces cannot be the same"):
        tiny_model("additive", tie_embeddings=True)


def test_variants_start_alike() -> None:
    """Parameters of the same name and shape have the same first values in both variants; another seed gives others."""
    plain, attention, other = tiny_model("none"), tiny_model("additive"), tiny_model("none", seed=2)
    shared = dict(attention.named_parameters())
    compared = [
        name for name, parameter in plain.named_parameters() if name in shared and shared[name].shape == parameter.shape
    ]
    assert {
        "source_embedding.weight",
        "encoder.layers.0.hidden_weight",
        "bridge.weight",
        "decoder.layers.0.input_weight",
    } <= set(compared)
    for name in compared:
        torch.testing.assert_close(dict(plain.named_parameters())[name], shared[name])
    assert not torch.equal(plain.bridge.weight, other.bridge.weight)


def test_dot_needs_equal_sizes() -> None:
    """A decoder that cannot be compared with the encoder is refused with the way out."""
    settings = model_settings().model_copy(
        update={"decoder": model_settings().decoder.model_copy(update={"hidden_size": 6})}
    )
    with pytest.raises(UserError, match=r"set model\.decoder\.hidden_size"):
        Seq2Seq(settings, "dot", 13, 11)
    with pytest.raises(UserError, match=r"set model\.word_query to false"):
        tiny_model("dot", word_query=True)


def test_dot_products_are_scaled() -> None:
    """General attention divides by the square root of the size, so weights do not harden with width."""
    attention = GeneralAttention(16, 4)
    assert attention.scale.item() == pytest.approx(1 / math.sqrt(16))


def test_operations_are_counted_by_formula() -> None:
    """Six per weight and token, for sizes small enough to count by hand."""
    model = tiny_model("additive")
    sizes = model.parameters_by_part()
    keys = 8 * 5 + 5
    expected = 6 * (10 * (sizes["encoder"] + keys) + 20 * (sizes["decoder"] + 5 + 8 * 5 + 11 * 6) + 30 * (5 + 8))
    assert model.training_flops(10, 20, 30) == expected
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_operations_of_a_constant_context_are_not_counted_per_word() -> None:
    """Without attention, the context's share of the gates' inputs [3 * 8, 8] is multiplied once per sentence."""
    model = tiny_model("none")
    sizes = model.parameters_by_part()
    expected = 6 * (10 * sizes["encoder"] + 20 * (sizes["decoder"] - 24 * 8 + 11 * 6))
    assert model.training_flops(10, 20, 30) == expected


def test_a_lexical_decoder_fetches_the_words_themselves() -> None:
    """The end of a context is the embedding of the one word that is looked at; plain has no such thing."""
    model = tiny_model("additive", lexical=True)
    source, lengths = torch.tensor([[7, 9]]), torch.tensor([2])
    memory = model.encode(source, lengths)
    first_only = Memory(memory.values_BSC, memory.keys_BSA, torch.tensor([[False, True]]), memory.start)
    _, context_BC, _, _ = model.decoder.step(
        first_only, model.start(memory), model.target_embedding(torch.tensor([2])), None, torch.float32
    )
    torch.testing.assert_close(context_BC[0, 8:], model.source_embedding.weight[7])
    torch.testing.assert_close(memory.keys_BSA, tiny_model("additive").encode(source, lengths).keys_BSA)
    plain, same = (tiny_model("none", lexical=lexical) for lexical in (False, True))
    assert dict(plain.named_parameters()).keys() == dict(same.named_parameters()).keys()
    assert model.training_flops(1, 1, 1) - model.training_flops(1, 1, 0) == 6 * (5 + 8 + 6)

"""A trained model as search uses it: `Seq2Seq.step` with as little arithmetic as can be at each step.

What a step reads of the previous word y and of the context c enters it through products only:

    gates of the first layer     W_y e(y) + W_c c + b + (a product with the state)
    deep read-out                U_y e(y) + U_c c + d + U_h h
    a query that knows the word  Q_y e(y) + (a product with the state)

The part of a word is always the same, so there is a table of all words (as Devlin et al. 2014 make their network's
first layer fast). The context is a weighted sum of values; where a sentence has several hypotheses its values are
multiplied, once, and the sum is of their products. The query of additive attention and the gates of the top layer read
the same state and are one product. What is read of a sentence is there once, however many hypotheses it has.

So a running hypothesis with a decoder of 512 units and 6,000 pieces takes 5.4 MFLOP a step instead of 8.2, with a beam,
and each source position 1.8 once; 7.3 without a beam. The sums come in another order than in `Seq2Seq.step`, which is
the reference: results differ from it in their last bits. (Keys of additive attention are held within +-44, as in
training: beyond, where a query of the other sign would bring the sum back, they differ in more.)

Shape suffixes: A sentences, W places of each, R rows (`nmt.places`), S source positions, C context, K key, H
state, G gates of the first layer, E embedding, X = G or, with a deep read-out, G + E (the table of words may have K
more), V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nmt.model import compiled
from nmt.model.attention import AdditiveAttention, GeneralAttention, NoAttention
from nmt.model.cells import State, step
from nmt.model.decoder import Decoder, DecoderState, Memory
from nmt.model.encoder import RecurrentLayer
from nmt.model.native import prediction as native
from nmt.model.native.library import LANES
from nmt.model.normalization import Norm, normalize
from nmt.model.products import Factor
from nmt.model.scorers import SATURATED
from nmt.model.seq2seq import Seq2Seq
from nmt.places import Places

TABLE_CELLS = 2**25
"""Of a larger vocabulary (128 MiB in float32) each step multiplies its own words."""
_CACHED_CELLS = 2**17
"""Sums of query and key that a CPU makes at a time: half a MiB, which stays in a core's cache."""


@dataclass
class Source:
    """What a step reads of the source sentences; for one search only, whose first wide step projects the values."""

    memory: Memory
    """The keys of additive attention are exp(2 key), as `nmt.model.scorers.AdditiveScorer` has them."""
    projected: bool
    """Whether the values are what they are for gates and read-out; a lexical model's end with the source's embeddings
    in any case."""

    def select(self, index_A: Tensor) -> "Source":
        """Those of these sentences, in this order."""
        return Source(self.memory.select(index_A), self.projected)


class _Layer:
    """The weights of one recurrent layer, but for those that the first one's inputs meet.

    The top layer may be given a query's weight: its recurrent product has the query before the gates.
    """

    def __init__(self, layer: RecurrentLayer, first: bool, query_KH: Tensor | None) -> None:
        self.cell = layer.cell
        self.norm = Norm(*(each[0] for each in layer.norm)) if layer.norm else None
        self.inputs = None if first else _factor(layer.input_weight[0], layer.input_bias[0])
        weight_GH, bias_G = layer.hidden_weight[0], layer.hidden_bias[0]
        if query_KH is not None:
            weight_GH, bias_G = torch.cat([query_KH, weight_GH]), torch.cat([bias_G.new_zeros(len(query_KH)), bias_G])
        self.recurrent = _factor(weight_GH, bias_G)


class Predictor:
    """A `SearchableModel` made of a model whose weights no longer change, on its device.

    An attention that the model gets later (an ablation's) has no effect on it. To be used in `torch.inference_mode`.
    """

    @torch.inference_mode()
    def __init__(self, model: Seq2Seq) -> None:
        self._model, decoder = model, model.decoder
        self._residual, self._deep, self._embedding_size = decoder.residual, decoder.deep, decoder.embedding_size
        attention, layers = decoder.attention, decoder.recurrent
        state_size = layers[-1].hidden_weight.shape[2]
        query_KH = attention.query.weight[:, :state_size] if isinstance(attention, AdditiveAttention) else None
        self._query_size = 0 if query_KH is None else len(query_KH)
        self._layers = [
            _Layer(layer, i == 0, query_KH if i == len(layers) - 1 else None) for i, layer in enumerate(layers)
        ]
        self._attend = _attend(attention)
        words_XE, contexts_XC, bias_X, state_EH = _parts(decoder)
        self._gates, self._inputs_size = layers[0].input_bias.shape[1], len(bias_X)
        if decoder.word_query and model.has_attention:
            asking_KE = _asking(attention, state_size)
            words_XE, bias_X = torch.cat([words_XE, asking_KE]), torch.cat([bias_X, bias_X.new_zeros(len(asking_KE))])
        self._words = _words(model.target_embedding.weight, words_XE, bias_X)
        self._contexts = _factor(contexts_XC)
        self._readout = _factor(state_EH, None if decoder.deep else decoder.readout.bias)
        self._lexical = decoder.lexical and _factor(decoder.lexical.weight, decoder.lexical.bias)
        self._output = _factor(model.output.weight, model.output.bias)
        self._versions = _versions(model)

    def encode(self, source_AS: Tensor, lengths_A: Tensor) -> Source:
        """Read source sentences (pieces + eos, padded with PAD) [A, S] of these lengths [A]."""
        assert _versions(self._model) == self._versions, "a model that has changed needs a new predictor"
        memory = self._model.encode(source_AS, lengths_A)
        if self._query_size:
            memory = replace(memory, keys_BSA=_exp_of_double(memory.keys_BSA.clamp(-SATURATED, SATURATED)))
        source = Source(memory, projected=False)
        if not self._model.has_attention:
            self._project_values(source)
        return source

    def start(self, source: Source) -> DecoderState:
        """The decoder's state before the first word."""
        return source.memory.start

    def step(
        self, source: Source, state: DecoderState, previous_R: Tensor, places: Places
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """One step of prediction: logits [R, V], the next state, the attention weights [R, S]."""
        top_RH = state.tensors[0][-1]
        query_and_gates = self._layers[-1].recurrent(top_RH)
        query_RK = query_and_gates[:, : self._query_size] if self._query_size else top_RH
        if places.width > 1 and not source.projected:
            self._project_values(source)
        words_RX = self._words(previous_R)
        sources_RX, weights_RS = self._attend(self._asked(query_RK, words_RX[:, self._inputs_size :]), source, places)
        if not source.projected:
            sources_RX = self._project(sources_RX)
        inputs_RX = words_RX[:, : self._inputs_size] + sources_RX[:, : self._inputs_size]
        inputs_RG, handed_on = inputs_RX[:, : self._gates], top_RH
        new: list[State] = []
        for i, layer in enumerate(self._layers):
            before = tuple(tensor[i] for tensor in state.tensors)
            if layer.inputs is not None:
                inputs_RG = layer.inputs(handed_on)
            is_top = i == len(self._layers) - 1
            recurrent_RG = query_and_gates[:, self._query_size :] if is_top else layer.recurrent(before[0])
            after = step(layer.cell, *normalize(layer.norm, inputs_RG, recurrent_RG, top_RH.shape[1]), before)
            new.append(after)
            handed_on = after[0] + handed_on if self._residual and i else after[0]
        readout_RE = self._readout(handed_on)
        if self._deep:
            readout_RE += inputs_RX[:, self._gates :]
        readout_RE = readout_RE.tanh_()
        if self._lexical is not None:
            words_RE = torch.tanh(sources_RX[:, self._inputs_size :])
            readout_RE = readout_RE + words_RE + self._lexical(words_RE).tanh_()
        tensors = tuple(torch.stack(column) for column in zip(*new, strict=True))
        return self._output(readout_RE), DecoderState(tensors), weights_RS

    def _asked(self, state_RK: Tensor, word_RK: Tensor) -> Tensor:
        """The query, of what state and word ask for; general attention's words stand beside its states."""
        if not word_RK.shape[1]:
            return state_RK
        return state_RK + word_RK if self._query_size else torch.cat([state_RK, word_RK], dim=1)

    def _project_values(self, source: Source) -> None:
        """From here on values are projected, not contexts: as soon as a sentence has more hypotheses than one."""
        source.memory = replace(source.memory, values_BSC=self._project(source.memory.values_BSC))
        source.projected = True

    def _project(self, values_C: Tensor) -> Tensor:
        """What values or contexts [..., C] are for gates and read-out [..., X]; embeddings follow as they are."""
        projected_X = self._contexts(values_C)
        if self._lexical is None:
            return projected_X
        return torch.cat([projected_X, values_C[..., -self._embedding_size :]], dim=-1)


_Attend = Callable[[Tensor, Source, Places], tuple[Tensor, Tensor | None]]
"""(query [R, K], source, places) to the weighted sum of what is looked at [R, X] and the weights [R, S]."""


def _attend(attention: torch.nn.Module) -> _Attend:
    if isinstance(attention, NoAttention):
        return _summary
    if isinstance(attention, AdditiveAttention):
        one, weight = attention.weight.new_ones(()), -2.0 * attention.weight

        def additive(query_AWK: Tensor, exp_keys_ASK: Tensor) -> Tensor:
            keys, queries = exp_keys_ASK[:, None], _exp_of_double(query_AWK)[:, :, None]
            scores_AWS = queries.new_empty(*query_AWK.shape[:2], exp_keys_ASK.shape[1])
            some = len(keys) if keys.is_cuda else max(1, _CACHED_CELLS // (scores_AWS[0].numel() * len(weight)))
            for part in (slice(begin, begin + some) for begin in range(0, len(keys), some)):
                squashed = torch.addcmul(one, keys[part], queries[part]).reciprocal_()
                torch.matmul(squashed, weight, out=scores_AWS[part])
            return scores_AWS

        return lambda *given: _look(additive, attention.weight, True, *given)
    assert isinstance(attention, GeneralAttention), f"no prediction with {type(attention).__name__}"
    scale = attention.scale

    def general(query_AWK: Tensor, keys_ASK: Tensor) -> Tensor:
        return (query_AWK @ keys_ASK.transpose(1, 2)) * scale

    return lambda *given: _look(general, scale, False, *given)


def _summary(query_RK: Tensor, source: Source, places: Places) -> tuple[Tensor, None]:
    """The one position there is, whatever the query."""
    parts_AX = source.memory.values_BSC[:, 0]
    return parts_AX if places.one_each else parts_AX.index_select(0, places.sentence_R(parts_AX.device)), None


def _look(
    score: Callable[[Tensor, Tensor], Tensor],
    score_weight: Tensor,
    additive: bool,
    query_RK: Tensor,
    source: Source,
    places: Places,
) -> tuple[Tensor, Tensor]:
    """The softmax of the scores over real source words, and the values' sum under it.

    `score` computes what a compiled kernel needs the weight and the kind of.
    """
    values_ASX, keys_ASK, padding_AS = source.memory.values_BSC, source.memory.keys_BSA, source.memory.padding_BS
    fit = keys_ASK.shape[2] % LANES == 0 and values_ASX.shape[2] % LANES == 0
    if fit and query_RK.dtype == torch.float32 and compiled.on_cpu(query_RK):
        sentence_R = None if places.one_each else places.sentence_R(query_RK.device)
        return native.attend(additive, query_RK, keys_ASK, values_ASX, score_weight, padding_AS, sentence_R)
    scores_AWS = score(places.spread(query_RK), keys_ASK)
    weights_AWS = torch.softmax(scores_AWS.masked_fill_(padding_AS[:, None], -torch.inf), dim=-1)
    return places.collect(weights_AWS @ values_ASX), places.collect(weights_AWS)


def _exp_of_double(tensor: Tensor) -> Tensor:
    """exp(2 x)."""
    return (2.0 * tensor).exp_()


def _parts(decoder: Decoder) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights that previous words [X, E] and contexts [X, C] meet, their bias [X], the read-out's for states."""
    first, readout = decoder.recurrent[0], decoder.readout
    sizes = [decoder.embedding_size, decoder.context_size]
    words_GE, contexts_GC = torch.split(first.input_weight[0], sizes, dim=1)
    if not decoder.deep:
        return words_GE, contexts_GC, first.input_bias[0], readout.weight
    state_EH, contexts_EC, words_EE = torch.split(
        readout.weight, [readout.in_features - sum(sizes), *sizes[::-1]], dim=1
    )
    words, contexts = torch.cat([words_GE, words_EE]), torch.cat([contexts_GC, contexts_EC])
    return words, contexts, torch.cat([first.input_bias[0], readout.bias]), state_EH


def _asking(attention: torch.nn.Module, state_size: int) -> Tensor:
    """The weight [K, E] by which words enter a query."""
    if isinstance(attention, AdditiveAttention):
        return attention.query.weight[:, state_size:]
    assert isinstance(attention, GeneralAttention)
    return torch.eye(attention.key_size - state_size, device=attention.scale.device, dtype=attention.scale.dtype)


def _words(embedding_VE: Tensor, weight_XE: Tensor, bias_X: Tensor) -> Callable[[Tensor], Tensor]:
    """What previous words [R] bring into a step [R, X]."""
    factor = _factor(weight_XE, bias_X)
    if len(embedding_VE) * len(weight_XE) > TABLE_CELLS:
        return lambda previous_R: factor(embedding_VE.index_select(0, previous_R))
    table_VX = factor(embedding_VE)
    return lambda previous_R: table_VX.index_select(0, previous_R)


def _factor(weight: Tensor, bias: Tensor | None = None) -> Factor:
    """For products in the weight's own type, as in all prediction."""
    return Factor(weight, weight.dtype, None, bias)


def _versions(model: Seq2Seq) -> int:
    """A number that grows whenever a weight changes."""
    return sum(parameter._version for parameter in model.parameters())

"""Writes the target sentence.

`Decoder.step` is the model in its readable form, one word at a time. `Decoder.decode` is the same arithmetic for a
whole reference at once, as training uses it; `nmt.prediction` is the same for one word, as search uses it.

    attention   layers   training runs through
    none        any      recurrence.run_sequence, layer by layer: the context never changes
    any other   any      recurrence.run_attended: the top layer's state asks, so all layers share one loop

with or without residual connections. An attention that recurrence.py does not know (an ablation) goes by `step`, too.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nmt.model.attention import AdditiveAttention, Attention, GeneralAttention, NoAttention
from nmt.model.cells import State, step
from nmt.model.encoder import RecurrentLayer
from nmt.model.normalization import Norm, normalize
from nmt.model.products import linear
from nmt.model.recurrence import Layer, run_attended


@dataclass(frozen=True)
class DecoderState:
    """The state of every layer: (hidden,) or, of an LSTM, (hidden, cell state), each [layers, B, H]."""

    tensors: State

    def select(self, index_B: Tensor) -> "DecoderState":
        """The states of these sentences or hypotheses, in this order; one may come several times."""
        return DecoderState(tuple(tensor.index_select(1, index_B) for tensor in self.tensors))


@dataclass(frozen=True)
class Memory:
    """All that the decoder gets from the encoder."""

    values_BSC: Tensor
    """What is attended to: encoder outputs, perhaps with the embeddings beside them; without attention the summary
    alone, with S = 1."""
    keys_BSA: Tensor
    padding_BS: Tensor
    """True at padding."""
    start: DecoderState

    def select(self, index_B: Tensor) -> "Memory":
        """The memories of these sentences, in this order; one may come several times."""
        values, keys, padding = (
            tensor.index_select(0, index_B) for tensor in (self.values_BSC, self.keys_BSA, self.padding_BS)
        )
        return Memory(values, keys, padding, self.start.select(index_B))


class DecoderMasks(NamedTuple):
    """Dropout masks of one batch, the same at every step; None where nothing is dropped."""

    recurrent: list[Tensor | None]
    """Per layer [B, H], on the state that enters the next step."""
    output: Tensor | None
    """[B, H], on what a layer hands on."""

    @classmethod
    def none(cls, layers: int) -> "DecoderMasks":
        """Nothing is dropped."""
        return cls([None] * layers, None)


class Decoder(nn.Module):
    """Recurrent layers whose first one reads the previous word's embedding beside the context.

    `decode` takes the layers' one direction by `squeeze`: its way back is a view, where that of `[0]` fills a whole
    weight with zeros first.

    With `residual`, a layer above the first hands on, to the next one and to the readout, the sum of its state and its
    input, before dropout (Wu et al. 2016, section 3.1). The query has the state alone, as it is what is carried on.

    With `word_query` the query is the state beside the embedding of the word that the step reads. The state alone, from
    which that word was predicted, does not know which word was chosen.

    If it is `lexical`, the end of a context is a mean of the source words' embeddings, as wide as those it writes.
    """

    def __init__(
        self,
        cell: str,
        embedding_size: int,
        hidden_size: int,
        layers: int,
        context_size: int,
        attention: Attention,
        readout: Literal["state", "deep"],
        normalized: bool,
        residual: bool,
        word_query: bool,
        lexical: bool,
    ) -> None:
        super().__init__()
        self.residual, self.word_query = residual, word_query
        self.context_size = context_size
        self.embedding_size = embedding_size
        self.attention = attention
        sizes = [embedding_size + context_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(cell, size, hidden_size, 1, normalized) for size in sizes)
        self.deep = readout == "deep"
        self.readout = nn.Linear(hidden_size + (context_size + embedding_size if self.deep else 0), embedding_size)
        self.lexical = nn.Linear(embedding_size, embedding_size) if lexical else None

    @property
    def recurrent(self) -> list[RecurrentLayer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]

    def read_out(self, hidden: Tensor, context: Tensor, embedded: Tensor, dtype: torch.dtype) -> Tensor:
        """What the output layer compares with every word's embedding: [..., E].

        "deep" lets context and previous word enter beside the state (Pascanu et al. 2014; Bahdanau et al. 2015, A.2.2,
        with tanh for maxout). A lexical decoder adds what the looked-at words are by themselves: y + tanh(W y + b) with
        y = tanh(their mean embedding) (Nguyen & Chiang 2018, section 4, with one output matrix for both).
        """
        features = torch.cat([hidden, context, embedded], dim=-1) if self.deep else hidden
        readout = torch.tanh(linear(features, self.readout.weight, self.readout.bias, dtype))
        if self.lexical is None:
            return readout
        words = torch.tanh(context[..., -self.embedding_size :])
        return readout + words + torch.tanh(linear(words, self.lexical.weight, self.lexical.bias, dtype))

    def step(
        self, memory: Memory, state: DecoderState, embedded_BE: Tensor, masks: DecoderMasks | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, DecoderState, Tensor | None]:
        """One word: what the top layer hands on [B, H], the context [B, C], the next state, the weights [B, S].

        The query is the top layer's state after the previous word, perhaps beside the word that is read now.
        """
        recurrent_masks = masks.recurrent if masks else [None] * len(self.layers)
        query_BQ = _masked(state.tensors[0][-1], recurrent_masks[-1])
        if self.word_query:
            query_BQ = torch.cat([query_BQ, embedded_BE], dim=-1)
        context_BC, weights_BS = self.attention(query_BQ, memory.keys_BSA, memory.values_BSC, memory.padding_BS)
        inputs_BI = torch.cat([embedded_BE, context_BC], dim=-1)
        new: list[State] = []
        handed_on: list[Tensor] = []
        for i, (layer, mask) in enumerate(zip(self.recurrent, recurrent_masks, strict=True)):
            before = tuple(tensor[i] for tensor in state.tensors)
            inputs_BG = linear(inputs_BI, layer.input_weight[0], layer.input_bias[0], dtype)
            recurrent_BG = linear(_masked(before[0], mask), layer.hidden_weight[0], layer.hidden_bias[0], dtype)
            projections = normalize(layer.norm, inputs_BG, recurrent_BG, before[0].shape[-1])
            after = step(layer.cell, *projections, before)
            new.append(after)
            handed_on.append(after[0] + handed_on[-1] if self.residual and handed_on else after[0])
            inputs_BI = _masked(handed_on[-1], masks.output if masks else None)
        tensors = tuple(torch.stack(column) for column in zip(*new, strict=True))
        return handed_on[-1], context_BC, DecoderState(tensors), weights_BS

    def decode(
        self, memory: Memory, embedded_TBE: Tensor, masks: DecoderMasks, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Teacher-forced, all words: the top layer's output [T, B, H], contexts [T, B, C], weights [T, B, S]."""
        if isinstance(self.attention, NoAttention):
            return self._decode_plain(memory, embedded_TBE, masks, dtype)
        if isinstance(self.attention, AdditiveAttention | GeneralAttention):
            return self._decode_attended(memory, embedded_TBE, masks, dtype)
        return self._decode_by_steps(memory, embedded_TBE, masks, dtype)

    def _decode_plain(
        self, memory: Memory, embedded_TBE: Tensor, masks: DecoderMasks, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, None]:
        context_BC = memory.values_BSC[:, 0]
        first = self.recurrent[0]
        sizes = [self.embedding_size, context_BC.shape[-1]]
        word_weight, context_weight = torch.split(first.input_weight.squeeze(0), sizes, dim=-1)
        words_TBG = linear(embedded_TBE, word_weight, first.input_bias.squeeze(0), dtype)
        projected_TDBG = (words_TBG + linear(context_BC, context_weight, None, dtype))[:, None]

        def run(i: int, projected_TDBG: Tensor) -> Tensor:
            start = tuple(tensor[i : i + 1] for tensor in memory.start.tensors)
            mask = masks.recurrent[i]
            return self.recurrent[i].run(projected_TDBG, start, None if mask is None else mask[None], dtype)[:, 0]

        output_TBH = run(0, projected_TDBG)
        for i, layer in enumerate(self.recurrent[1:], start=1):
            hidden_TBH = run(i, layer.project(_masked(output_TBH, masks.output), dtype))
            output_TBH = hidden_TBH + output_TBH if self.residual else hidden_TBH
        return output_TBH, context_BC.expand(len(embedded_TBE), -1, -1), None

    def _decode_attended(
        self, memory: Memory, embedded_TBE: Tensor, masks: DecoderMasks, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        first, attention = self.recurrent[0], self.attention
        sizes = [self.embedding_size, memory.values_BSC.shape[-1]]
        word_weight, context_weight = torch.split(first.input_weight.squeeze(0), sizes, dim=-1)
        size = first.hidden_weight.shape[-1]
        query_weight: Tensor
        score_weight: Tensor
        asked_TBA: Tensor | None = None
        if isinstance(attention, AdditiveAttention):
            query_weight, score_weight = attention.query.weight[:, :size], attention.weight
            if self.word_query:
                asked_TBA = linear(embedded_TBE, attention.query.weight[:, size:], None, dtype)
        else:
            assert isinstance(attention, GeneralAttention)
            query_weight = torch.eye(attention.key_size, size, dtype=embedded_TBE.dtype, device=embedded_TBE.device)
            score_weight = attention.scale
            if self.word_query:
                asked_TBA = pad(embedded_TBE, (size, 0))
        starts = zip(*(tensor.unbind(0) for tensor in memory.start.tensors), strict=True)
        layers = [
            Layer(
                layer.hidden_weight.squeeze(0), layer.hidden_bias.squeeze(0), start, mask,
                None if layer is first else layer.input_weight.squeeze(0),
                None if layer is first else layer.input_bias.squeeze(0),
                Norm(*(each.squeeze(0) for each in layer.norm)) if layer.norm else None,
            )
            for layer, start, mask in zip(self.recurrent, starts, masks.recurrent, strict=True)
        ]  # fmt: skip
        words_TBG = linear(embedded_TBE, word_weight, first.input_bias.squeeze(0), dtype)
        return run_attended(
            first.cell.name, attention.score, dtype, words_TBG, memory.keys_BSA, memory.values_BSC, memory.padding_BS,
            query_weight, score_weight, context_weight, layers, masks.output, self.residual, asked_TBA,
        )  # fmt: skip

    def _decode_by_steps(
        self, memory: Memory, embedded_TBE: Tensor, masks: DecoderMasks, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        state, columns = memory.start, []
        for embedded_BE in embedded_TBE.unbind(0):
            hidden_BH, context_BC, state, weights_BS = self.step(memory, state, embedded_BE, masks, dtype)
            columns.append((hidden_BH, context_BC, weights_BS))
        hidden, contexts, weights = zip(*columns, strict=True)
        return torch.stack(hidden), torch.stack(contexts), None if weights[0] is None else torch.stack(weights).detach()


def _masked(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return tensor if mask is None else tensor * mask

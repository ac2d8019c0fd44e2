"""The recurrences of recurrence.py for one GRU layer on a GPU, with Triton kernels for all that is no product.

    Sequence   a step is one product and one kernel, forward and back
    Attended   a step is two products and two kernels: attention, and the cell

Each computes what the node of that purpose in recurrence.py computes, which stays the reference. There a step launches
about thirty operations, and on a GPU it is their number that a step's time depends on.

A kernel that runs the cell works on a row, the state of one sentence in one direction; one that attends on a sentence.
No sum depends on an order that is left to chance. Without a GPU, TRITON_INTERPRET=1 runs them all the same (the tests).
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model.products import operand, operand_type, weight_gradient

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.10 changes the default, and with it last bits

LONGEST = 1024
"""Source positions that `Attended` takes: a program looks at all of them; for more, Triton compiles poorly and long."""
_UNITS = 512
"""Of a row, for one program."""
_TILE = 8192
"""Numbers of a sentence's keys or values that a program looks at together."""
_FEWEST = 16
"""Columns and source positions of a tile."""


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def _cell_forward(
    given, given_direction, given_sentence, beside, recurrent, recurrent_row, bias, before, mask,
    hidden, read, saved, sentences, size,
    BESIDE: tl.constexpr, MASKED: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """One step of cells.step for a row; what it reads for the next product, and what the backward pass needs."""
    row, rows = tl.program_id(0), tl.num_programs(0)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    inside = unit < size
    direction = row // sentences
    given += direction * given_direction + (row % sentences) * given_sentence + unit
    recurrent += row * recurrent_row + unit
    bias += direction * 3 * size + unit
    reset = tl.load(given, mask=inside, other=0.0)
    update = tl.load(given + size, mask=inside, other=0.0)
    candidate = tl.load(given + 2 * size, mask=inside, other=0.0)
    if BESIDE:
        beside += row * 3 * size + unit
        reset += tl.load(beside, mask=inside, other=0.0).to(tl.float32)
        update += tl.load(beside + size, mask=inside, other=0.0).to(tl.float32)
        candidate += tl.load(beside + 2 * size, mask=inside, other=0.0).to(tl.float32)
    reset += tl.load(recurrent, mask=inside, other=0.0).to(tl.float32) + tl.load(bias, mask=inside, other=0.0)
    update += tl.load(recurrent + size, mask=inside, other=0.0).to(tl.float32)
    update += tl.load(bias + size, mask=inside, other=0.0)
    inner = tl.load(recurrent + 2 * size, mask=inside, other=0.0).to(tl.float32)
    inner += tl.load(bias + 2 * size, mask=inside, other=0.0)
    reset, update = tl.sigmoid(reset), tl.sigmoid(update)
    candidate = _tanh(candidate + reset * inner)
    place = row * size + unit
    after = candidate + update * (tl.load(before + place, mask=inside, other=0.0) - candidate)
    tl.store(hidden + place, after, mask=inside)
    if MASKED:
        after *= tl.load(mask + place, mask=inside, other=0.0)
    tl.store(read + place, after.to(read.dtype.element_ty), mask=inside)
    saved += place
    tl.store(saved, reset, mask=inside)
    tl.store(saved + rows * size, update, mask=inside)
    tl.store(saved + 2 * rows * size, candidate, mask=inside)
    tl.store(saved + 3 * rows * size, inner, mask=inside)


@triton.jit
def _cell_backward(
    outer, kept, through, mask, before, saved, d_given, d_operand, d_recurrent, d_recurrent_row, size,
    MASKED: tl.constexpr, OPERAND: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """The backward pass of a step for a row: its gradient comes from outside, past the next step and through it."""
    row, rows = tl.program_id(0), tl.num_programs(0)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    inside = unit < size
    place = row * size + unit
    carried = tl.load(through + place, mask=inside, other=0.0).to(tl.float32)
    if MASKED:
        carried *= tl.load(mask + place, mask=inside, other=0.0)
    d_hidden = tl.load(outer + place, mask=inside, other=0.0) + tl.load(kept + place, mask=inside, other=0.0) + carried
    saved += place
    reset = tl.load(saved, mask=inside, other=0.0)
    update = tl.load(saved + rows * size, mask=inside, other=0.0)
    candidate = tl.load(saved + 2 * rows * size, mask=inside, other=0.0)
    inner = tl.load(saved + 3 * rows * size, mask=inside, other=0.0)
    d_candidate = d_hidden * (1.0 - update) * (1.0 - candidate * candidate)
    d_update = d_hidden * (tl.load(before + place, mask=inside, other=0.0) - candidate) * update * (1.0 - update)
    d_inner = d_candidate * reset
    d_reset = d_inner * inner * (1.0 - reset)
    tl.store(kept + place, d_hidden * update, mask=inside)
    wide = row * 3 * size + unit
    tl.store(d_given + wide, d_reset, mask=inside)
    tl.store(d_given + wide + size, d_update, mask=inside)
    tl.store(d_given + wide + 2 * size, d_candidate, mask=inside)
    if OPERAND:
        tl.store(d_operand + wide, d_reset.to(d_operand.dtype.element_ty), mask=inside)
        tl.store(d_operand + wide + size, d_update.to(d_operand.dtype.element_ty), mask=inside)
        tl.store(d_operand + wide + 2 * size, d_candidate.to(d_operand.dtype.element_ty), mask=inside)
    d_recurrent += row * d_recurrent_row + unit
    tl.store(d_recurrent, d_reset.to(d_recurrent.dtype.element_ty), mask=inside)
    tl.store(d_recurrent + size, d_update.to(d_recurrent.dtype.element_ty), mask=inside)
    tl.store(d_recurrent + 2 * size, d_inner.to(d_recurrent.dtype.element_ty), mask=inside)


@triton.jit
def _attend_forward(
    query, query_row, asked, keys, score_weight, padding, values, weights, context, read, length,
    ADDITIVE: tl.constexpr, ASKED: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    PLACES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scores, their softmax and the values' mean under it for a sentence; the context also as an operand."""
    sentence = tl.program_id(0)
    place, columns = tl.arange(0, PLACES), tl.arange(0, COLUMNS)
    within = place < length
    scores = tl.zeros([PLACES], dtype=tl.float32)
    for begin in range(0, KEY, COLUMNS):
        column = begin + columns
        inside = column < KEY
        sought = tl.load(query + sentence * query_row + column, mask=inside, other=0.0).to(tl.float32)
        if ASKED:
            sought += tl.load(asked + sentence * KEY + column, mask=inside, other=0.0)
        tile = within[:, None] & inside[None, :]
        key = tl.load(keys + (sentence * length + place[:, None]) * KEY + column[None, :], mask=tile, other=0.0)
        if ADDITIVE:
            factor = tl.load(score_weight + column, mask=inside, other=0.0)
            scores += tl.sum(_tanh(sought[None, :] + key) * factor[None, :], axis=1)
        else:
            scores += tl.sum(sought[None, :] * key, axis=1)
    if not ADDITIVE:
        scores *= tl.load(score_weight)
    there = within & (tl.load(padding + sentence * length + place, mask=within, other=1) == 0)
    scores = tl.where(there, scores, float("-inf"))
    exponentials = tl.exp(scores - tl.max(scores, axis=0))
    share = exponentials / tl.sum(exponentials, axis=0)
    tl.store(weights + sentence * length + place, share, mask=within)
    for begin in range(0, VALUE, COLUMNS):
        column = begin + columns
        inside = column < VALUE
        tile = within[:, None] & inside[None, :]
        value = tl.load(values + (sentence * length + place[:, None]) * VALUE + column[None, :], mask=tile, other=0.0)
        mean = tl.sum(share[:, None] * value, axis=0)
        tl.store(context + sentence * VALUE + column, mean, mask=inside)
        tl.store(read + sentence * VALUE + column, mean.to(read.dtype.element_ty), mask=inside)


@triton.jit
def _attend_backward(
    query, query_row, asked, keys, score_weight, values, weights, outer, through, d_context, d_query, d_query_row,
    d_asked, d_keys, d_factors, length,
    ADDITIVE: tl.constexpr, ASKED: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    PLACES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradients of a context, its query, the keys and the score's weight; the last two are added to."""
    sentence = tl.program_id(0)
    place, columns = tl.arange(0, PLACES), tl.arange(0, COLUMNS)
    within = place < length
    d_share = tl.zeros([PLACES], dtype=tl.float32)
    for begin in range(0, VALUE, COLUMNS):
        column = begin + columns
        inside = column < VALUE
        at = sentence * VALUE + column
        gradient = tl.load(outer + at, mask=inside, other=0.0)
        gradient += tl.load(through + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(d_context + at, gradient, mask=inside)
        tile = within[:, None] & inside[None, :]
        value = tl.load(values + (sentence * length + place[:, None]) * VALUE + column[None, :], mask=tile, other=0.0)
        d_share += tl.sum(gradient[None, :] * value, axis=1)
    share = tl.load(weights + sentence * length + place, mask=within, other=0.0)
    d_scores = share * (d_share - tl.sum(share * d_share, axis=0))
    if not ADDITIVE:
        d_scores *= tl.load(score_weight)
    for begin in range(0, KEY, COLUMNS):
        column = begin + columns
        inside = column < KEY
        sought = tl.load(query + sentence * query_row + column, mask=inside, other=0.0).to(tl.float32)
        if ASKED:
            sought += tl.load(asked + sentence * KEY + column, mask=inside, other=0.0)
        tile = within[:, None] & inside[None, :]
        at = (sentence * length + place[:, None]) * KEY + column[None, :]
        key = tl.load(keys + at, mask=tile, other=0.0)
        if ADDITIVE:
            factor = tl.load(score_weight + column, mask=inside, other=0.0)
            squashed = _tanh(sought[None, :] + key)
            d_sum = d_scores[:, None] * (1.0 - squashed * squashed) * factor[None, :]
            asker = tl.sum(d_sum, axis=0)
            own = d_factors + sentence * KEY + column
            tl.store(
                own,
                tl.load(own, mask=inside, other=0.0) + tl.sum(d_scores[:, None] * squashed, axis=0),
                mask=inside,
            )
        else:
            d_sum = d_scores[:, None] * sought[None, :]
            asker = tl.sum(d_scores[:, None] * key, axis=0)
        tl.store(d_query + sentence * d_query_row + column, asker.to(d_query.dtype.element_ty), mask=inside)
        if ASKED:
            tl.store(d_asked + sentence * KEY + column, asker, mask=inside)
        tl.store(d_keys + at, tl.load(d_keys + at, mask=tile, other=0.0) + d_sum, mask=tile)


class _Cells:
    """The states of all steps of R rows, in D directions, and the kernels that go from one to the next."""

    def __init__(self, steps: int, start_DBH: Tensor, bias_DG: Tensor, mask_DBH: Tensor | None, dtype: torch.dtype):
        directions, self.sentences, self.size = start_DBH.shape
        self.rows = directions * self.sentences
        self.start, self.bias = start_DBH.contiguous(), bias_DG.contiguous()
        self.mask = None if mask_DBH is None else mask_DBH.contiguous()
        self.hidden = start_DBH.new_empty(steps, *start_DBH.shape)
        self.read = torch.empty_like(self.hidden, dtype=operand_type(start_DBH, dtype))
        self.after = torch.empty_like(self.read[0])
        """What the step after the last one would read."""
        self.saved = start_DBH.new_empty(steps, 4, *start_DBH.shape)
        self.read[0].copy_(self.start if self.mask is None else self.start * self.mask)
        self.grid = (self.rows, triton.cdiv(self.size, _UNITS))

    def forward(self, t: int, given_DBG: Tensor, beside_BG: Tensor | None, recurrent: Tensor) -> None:
        """Step t; `recurrent` [R, G] may lie within longer rows."""
        last = t + 1 == len(self.hidden)
        _cell_forward[self.grid](
            given_DBG, given_DBG.stride(0), given_DBG.stride(1),
            self.bias if beside_BG is None else beside_BG, recurrent, recurrent.stride(-2), self.bias,
            self._before(t), self.bias if self.mask is None else self.mask,
            self.hidden[t], self.after if last else self.read[t + 1], self.saved[t], self.sentences, self.size,
            BESIDE=beside_BG is not None, MASKED=self.mask is not None, UNITS=_UNITS,
        )  # fmt: skip

    def begin_backward(self, d_hidden_TDBH: Tensor) -> None:
        """Begin the backward pass, with the gradient from outside."""
        self.d_hidden = d_hidden_TDBH.contiguous()
        self.d_given = self.hidden.new_empty(*self.hidden.shape[:-1], 3 * self.size)
        self.kept = torch.zeros_like(self.start)

    def backward(self, t: int, through_DBH: Tensor, d_recurrent: Tensor, d_operand: Tensor | None) -> None:
        """Step t; writes d_given, `d_recurrent` [R, G], which may lie within longer rows, and perhaps d_given again."""
        _cell_backward[self.grid](
            self.d_hidden[t], self.kept, through_DBH, self.start if self.mask is None else self.mask,
            self._before(t), self.saved[t], self.d_given[t],
            self.d_given[t] if d_operand is None else d_operand, d_recurrent, d_recurrent.stride(-2), self.size,
            MASKED=self.mask is not None, OPERAND=d_operand is not None, UNITS=_UNITS,
        )  # fmt: skip

    def d_bias(self) -> Tensor:
        """The gradient [D, G] of the recurrent product's bias, when all steps went back."""
        gates = self.d_given.sum((0, 2))
        reset = self.saved[:, 0]
        gates[:, 2 * self.size :] = (self.d_given[..., 2 * self.size :] * reset).sum((0, 2))
        return gates

    def d_start(self, through_DBH: Tensor) -> Tensor:
        """The gradient of the first state, when all steps went back."""
        through = through_DBH.to(self.kept.dtype)
        return self.kept + (through if self.mask is None else through * self.mask)

    def _before(self, t: int) -> Tensor:
        return self.hidden[t - 1] if t else self.start


def try_out(device: torch.device) -> None:
    """Build and run a kernel. Raises whatever Triton does where it cannot, without a C compiler for instance."""
    one, gates = torch.zeros(1, 1, 1, device=device), torch.zeros(1, 1, 1, 3, device=device)
    Sequence.apply(torch.float32, gates, gates[0].transpose(1, 2), gates[0, 0], None, one)


class Sequence(torch.autograd.Function):
    """recurrence.run_sequence of a GRU without normalisation."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, inputs: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, start: Tensor
    ) -> Tensor:
        if inputs.stride(-1) != 1:
            inputs = inputs.contiguous()
        cells = _Cells(len(inputs), start, bias, mask, dtype)
        factor = operand(weight, dtype)
        recurrent = cells.read.new_empty(*start.shape[:2], weight.shape[1])
        for t, given in enumerate(inputs.unbind(0)):
            torch.bmm(cells.read[t], factor.transpose(1, 2), out=recurrent)
            cells.forward(t, given, None, recurrent)
        ctx.cells = cells
        ctx.save_for_backward(weight)
        return cells.hidden.detach()  # a node of autograd that keeps its very output keeps itself

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> Any:
        cells: _Cells = ctx.cells
        (weight,) = ctx.saved_tensors
        factor = operand(weight, cells.read.dtype)
        d_recurrents = cells.read.new_empty(*cells.hidden.shape[:-1], 3 * cells.size)
        through = torch.zeros_like(cells.after)
        cells.begin_backward(d_hidden)
        for t in reversed(range(len(d_hidden))):
            cells.backward(t, through, d_recurrents[t], None)
            torch.bmm(d_recurrents[t], factor, out=through)
        d_recurrent_DNG, read_DNH = (each.transpose(0, 1).flatten(1, 2) for each in (d_recurrents, cells.read))
        d_weight = (d_recurrent_DNG.transpose(1, 2) @ read_DNH).to(weight.dtype)
        return None, cells.d_given, d_weight, cells.d_bias(), None, cells.d_start(through)


class Attended(torch.autograd.Function):
    """recurrence.run_attended of one GRU layer without normalisation."""

    @staticmethod
    def forward(
        ctx: Any, score: str, dtype: torch.dtype, inputs: Tensor, keys: Tensor, values: Tensor, padding: Tensor,
        query_weight: Tensor, score_weight: Tensor, context_weight: Tensor,
        weight: Tensor, bias: Tensor, mask: Tensor | None, asked: Tensor | None, start: Tensor,
    ) -> Any:  # fmt: skip
        inputs, keys, values, padding = (each.contiguous() for each in (inputs, keys, values, padding))
        asked = None if asked is None else asked.contiguous()
        steps, (batch, length, key_size), value_size = len(inputs), keys.shape, values.shape[-1]
        cells = _Cells(steps, start[None], bias[None], None if mask is None else mask[None], dtype)
        joint_weight = operand(torch.cat([query_weight, weight]), dtype)
        context_factor = operand(context_weight, dtype)
        read, width = cells.read[:, 0], len(joint_weight)
        joint = read.new_empty(steps, batch, width)
        """Query and recurrent gates of all steps."""
        beside = read.new_empty(batch, len(weight))
        weights, contexts = keys.new_empty(steps, batch, length), values.new_empty(steps, batch, value_size)
        read_contexts = torch.empty_like(contexts, dtype=read.dtype)
        tiles = _tiles(length)
        for t in range(steps):
            torch.mm(read[t], joint_weight.t(), out=joint[t])
            _attend_forward[(batch,)](
                joint[t], width, keys if asked is None else asked[t], keys, score_weight, padding, values,
                weights[t], contexts[t], read_contexts[t], length,
                ADDITIVE=score == "additive", ASKED=asked is not None, KEY=key_size, VALUE=value_size, **tiles,
            )  # fmt: skip
            torch.mm(read_contexts[t], context_factor.t(), out=beside)
            cells.forward(t, inputs[t, None], beside, joint[t, :, len(query_weight) :])
        ctx.score, ctx.cells, ctx.joint_weight, ctx.context_factor = score, cells, joint_weight, context_factor
        ctx.joint, ctx.read_contexts = joint, read_contexts
        ctx.save_for_backward(keys, values, score_weight, weights, asked)
        ctx.mark_non_differentiable(weights)
        return cells.hidden[:, 0].detach(), contexts, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, _: Tensor) -> Any:
        cells: _Cells = ctx.cells
        keys, values, score_weight, weights, asked = ctx.saved_tensors
        (batch, length, key_size), value_size = keys.shape, values.shape[-1]
        additive = ctx.score == "additive"
        joint, width = ctx.joint, ctx.joint.shape[-1]
        d_joint = torch.empty_like(joint)
        d_contexts = d_contexts.contiguous()
        d_all_contexts = torch.empty_like(d_contexts)
        d_keys, d_factors = torch.zeros_like(keys), keys.new_zeros(batch, key_size if additive else 0)
        d_asked = None if asked is None else torch.empty_like(asked)
        d_operands = joint.new_empty(*joint.shape[:-1], 3 * cells.size)
        through, context_through = torch.zeros_like(cells.after), ctx.read_contexts.new_empty(batch, value_size)
        cells.begin_backward(d_hiddens[:, None])
        tiles = _tiles(length)
        for t in reversed(range(len(joint))):
            cells.backward(t, through, d_joint[t, :, key_size:], d_operands[t])
            torch.mm(d_operands[t], ctx.context_factor, out=context_through)
            _attend_backward[(batch,)](
                joint[t], width, keys if asked is None else asked[t], keys, score_weight, values, weights[t],
                d_contexts[t], context_through, d_all_contexts[t],
                d_joint[t], width, keys if d_asked is None else d_asked[t], d_keys, d_factors, length,
                ADDITIVE=additive, ASKED=asked is not None, KEY=key_size, VALUE=value_size, **tiles,
            )  # fmt: skip
            torch.mm(d_joint[t], ctx.joint_weight, out=through[0])
        d_values = weights.permute(1, 2, 0) @ d_all_contexts.transpose(0, 1)
        d_context_weight = weight_gradient(d_operands.flatten(0, 1), ctx.read_contexts.flatten(0, 1))
        d_joint_weight = weight_gradient(d_joint.flatten(0, 1), cells.read[:, 0].flatten(0, 1))
        d_query_weight, d_weight = d_joint_weight.split_with_sizes([key_size, 3 * cells.size])
        return (
            None, None, cells.d_given[:, 0], d_keys, d_values, None,
            d_query_weight, d_factors.sum(0) if additive else None, d_context_weight,
            d_weight, cells.d_bias()[0], None, d_asked, cells.d_start(through)[0],
        )  # fmt: skip


def _tiles(length: int) -> dict[str, int]:
    """How a sentence's keys and values are cut."""
    places = max(_FEWEST, triton.next_power_of_2(length))
    return {"PLACES": places, "COLUMNS": max(_FEWEST, min(_UNITS, _TILE // places))}

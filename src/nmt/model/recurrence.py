"""Whole sequences through a recurrence, as one node of the autograd graph each.

A loop of small modules makes autograd keep every intermediate result and accumulate each weight's gradient in T small
products. Here the loop holds the sequential work only: inputs are projected before it, weight gradients are one product
after it, and backward is written out. The step-by-step decoder in decoder.py is the readable reference; tests hold both
together (gradients in float64 included).

`run_sequence`      a GRU or LSTM over given inputs: the encoder's layers and the plain decoder
`run_attended`      a GRU or LSTM whose next input holds the context that its last state attended to
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model.cells import CELLS, State, Tape, by_step, make_tape
from nmt.model.products import Factor, operand, operand_type

SATURATED = 44.0
"""tanh is 1 long before, and exp(2 x) is still a float32 here."""


def run_sequence(
    cell: str,
    inputs_TDBG: Tensor,
    start: State,
    weight_DGH: Tensor,
    bias_DG: Tensor,
    mask_DBH: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Run D independent recurrences side by side.

    `inputs_TDBG` are projected inputs with their bias, `start` the first state ([D, B, H] each), `mask_DBH` the dropout
    mask on the recurrent product's operand, `dtype` the products' type. Returns hidden states [T, D, B, H] and, of an
    LSTM, memories.
    """
    apply: Callable[..., tuple[Tensor, ...]] = _Sequence.apply
    hidden, *memory = apply(cell, dtype, inputs_TDBG, weight_DGH, bias_DG, mask_DBH, *start)
    return hidden, memory[0] if memory else None


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        dtype: torch.dtype,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        *start: Tensor,
    ) -> tuple[Tensor, ...]:
        state: State = start
        transposed = operand(weight, dtype).transpose(1, 2).contiguous()
        bias_row = bias[:, None]
        tape = make_tape(CELLS[name], start[0], len(inputs))
        operands = torch.empty_like(tape.hidden, dtype=operand_type(inputs, dtype))
        for t, (projected, read) in enumerate(zip(inputs.unbind(0), operands.unbind(0), strict=True)):
            recurrent = (_masked(state[0], mask, out=read) @ transposed).to(inputs.dtype) + bias_row
            state = tape.forward(t, projected, recurrent, state)
        ctx.dtype, ctx.tape, ctx.operands = dtype, tape, operands
        ctx.save_for_backward(weight, mask)
        return _outputs(*tape.states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, mask = ctx.saved_tensors
        tape: Tape = ctx.tape
        factor = operand(weight, ctx.dtype)
        carried = tuple(torch.zeros_like(gradient[0]) for gradient in gradients)
        d_inputs, d_recurrents = (tape.hidden.new_empty(*tape.hidden.shape[:-1], weight.shape[1]) for _ in range(2))
        tape.rewind(d_inputs, d_recurrents)
        for t, (d_recurrent, *outside) in reversed(list(enumerate(by_step(d_recurrents, *gradients)))):
            gradient = tuple(carry + outer for carry, outer in zip(carried, outside, strict=True))
            before = tape.backward(t, gradient)
            through = (operand(d_recurrent, ctx.dtype) @ factor).to(d_recurrent.dtype)
            carried = (before[0] + (through if mask is None else through * mask), *before[1:])
        d_recurrent_DNG, operands_DNH = (
            steps_TDBX.transpose(0, 1).flatten(1, 2) for steps_TDBX in (operand(d_recurrents, ctx.dtype), ctx.operands)
        )
        d_weight = (d_recurrent_DNG.transpose(1, 2) @ operands_DNH).to(weight.dtype)
        return None, None, d_inputs, d_weight, d_recurrents.sum((0, 2)), None, *carried


def run_attended(
    cell: str, score: str, dtype: torch.dtype,
    inputs_TBG: Tensor, start: State, keys_BSA: Tensor, values_BSC: Tensor, absent_BS: Tensor,
    query_weight_AH: Tensor, score_weight_A: Tensor, context_weight_GC: Tensor,
    weight_GH: Tensor, bias_G: Tensor, mask_BH: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the attention decoder's recurrence, teacher-forced.

    At each step: query = W_q h; weights = softmax(score(query, keys)); context = weights values; the cell reads its
    projected input plus W_c context. `score` is "additive": w . tanh(query + key), or "dot": query . key times
    score_weight_A[0]. `absent_BS` is true at padding. Returns hidden states [T, B, H], contexts [T, B, C] and weights
    [T, B, S]; the weights are for looking at and carry no gradient.
    """
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Attended.apply
    return apply(
        cell, score, dtype, inputs_TBG, keys_BSA, values_BSC, absent_BS,
        query_weight_AH, score_weight_A, context_weight_GC, weight_GH, bias_G, mask_BH, *start,
    )  # fmt: skip


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, score: str, dtype: torch.dtype,
        inputs: Tensor, keys: Tensor, values: Tensor, absent: Tensor,
        query_weight: Tensor, score_weight: Tensor, context_weight: Tensor,
        weight: Tensor, bias: Tensor, mask: Tensor | None, *start: Tensor,
    ) -> Any:  # fmt: skip
        state: State = start
        steps, batch, query_size = len(inputs), len(keys), len(query_weight)
        joint = torch.cat([query_weight, weight])  # query and gates read the same state: one product
        joint_bias = torch.cat([bias.new_zeros(query_size), bias])
        joint_factor, context_factor = Factor(joint, dtype, batch), Factor(context_weight, dtype, batch)
        scorer = _SCORERS[score](keys, score_weight, steps)
        tape = make_tape(CELLS[name], start[0], steps)
        contexts, weights = values.new_empty(steps, batch, values.shape[-1]), keys.new_empty(steps, *absent.shape)
        read_states, read_contexts = (
            torch.empty_like(read, dtype=operand_type(inputs, dtype)) for read in (tape.hidden, contexts)
        )
        barrier = keys.new_zeros(absent.shape).masked_fill_(absent, -torch.inf)
        sizes = [query_size, tape.gates]
        buffers = by_step(
            inputs, contexts, contexts.unsqueeze(2), weights, weights.unsqueeze(2), read_states, read_contexts
        )
        for t, (given, context, context_row, attention, attention_row, read_state, read_context) in enumerate(buffers):
            query, recurrent = (joint_factor(_masked(state[0], mask, out=read_state)) + joint_bias).split_with_sizes(
                sizes, dim=-1
            )
            torch.softmax(scorer.forward(t, query).add_(barrier), dim=-1, out=attention)
            torch.bmm(attention_row, values, out=context_row)
            inner = given + context_factor(read_context.copy_(context))
            state = tape.forward(t, inner, recurrent, state)
        ctx.dtype, ctx.tape, ctx.scorer = dtype, tape, scorer
        ctx.read_states, ctx.read_contexts = read_states, read_contexts
        ctx.save_for_backward(joint, context_weight, values, mask, weights)
        ctx.mark_non_differentiable(weights)
        return *_outputs(tape.hidden, contexts), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, _: Tensor) -> Any:
        joint, context_weight, values, mask, weights = ctx.saved_tensors
        dtype: torch.dtype = ctx.dtype
        tape: Tape = ctx.tape
        scorer: _Scorer = ctx.scorer
        scorer.rewind()
        steps, batch = tape.hidden.shape[:2]
        query_size = len(joint) - tape.gates
        joint_factor, context_factor = Factor(joint.t(), dtype, batch), Factor(context_weight.t(), dtype, batch)
        values_T = values.transpose(1, 2).contiguous()
        carried = tuple(torch.zeros_like(tape.hidden[0]) for _ in tape.states)
        d_inputs, d_projected = (values.new_empty(steps, batch, width) for width in (tape.gates, len(joint)))
        d_all_contexts = torch.empty_like(d_contexts)
        tape.rewind(d_inputs, d_projected[..., query_size:])
        buffers = by_step(
            weights, d_hiddens, d_contexts, d_inputs, d_projected, d_projected[..., :query_size],
            d_all_contexts, d_all_contexts.unsqueeze(2),
        )  # fmt: skip
        for t, (attention, outer, d_read, d_input, d_joint, d_query, d_context, d_row) in reversed(
            list(enumerate(buffers))
        ):
            before = tape.backward(t, (carried[0] + outer, *carried[1:]))
            torch.add(d_read, context_factor(operand(d_input, dtype)), out=d_context)
            d_weights = torch.bmm(d_row, values_T).squeeze(1)
            d_scores = torch._softmax_backward_data(d_weights, attention, -1, d_weights.dtype)
            scorer.backward(t, d_scores, d_query)
            through = joint_factor(operand(d_joint, dtype)).to(before[0].dtype)
            carried = (before[0] + (through if mask is None else through * mask), *before[1:])
        d_keys, d_score_weight = scorer.gradients()
        d_values = weights.permute(1, 2, 0) @ d_all_contexts.transpose(0, 1)
        d_joint_weight, d_context_weight = (
            (operand(gradient.flatten(0, 1), dtype).t() @ read.flatten(0, 1)).to(joint.dtype)
            for gradient, read in ((d_projected, ctx.read_states), (d_inputs, ctx.read_contexts))
        )
        return (
            None, None, None, d_inputs, d_keys, d_values, None,
            d_joint_weight[:query_size], d_score_weight, d_context_weight,
            d_joint_weight[query_size:], d_projected[..., query_size:].sum((0, 1)), None, *carried,
        )  # fmt: skip


class _Scorer(Protocol):
    """Scores of T queries [B, A] against the same keys [B, S, A], and the way back, last query first."""

    def forward(self, t: int, query: Tensor) -> Tensor:
        """The scores [B, S] of query t."""

    def rewind(self) -> None:
        """Begin the way back."""

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        """Write the gradient of query t."""

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Of the keys and of the score's weight, if that is learned; when all queries went back."""


class _AdditiveScorer:
    """score = w . tanh(query + key), without a tanh or an exp of anything as large as queries x keys.

    tanh(x) = 1 - 2 s with s = 1 / (1 + exp(2 x)), softmax does not see the constant, and exp(2 query + 2 key) is a
    product of two exponentials, each taken once. Where a factor leaves float32, s is 0 or 1, as it should be.
    """

    def __init__(self, keys: Tensor, weight: Tensor, steps: int) -> None:
        self._grown = keys.clamp(-SATURATED, SATURATED).mul_(2.0).exp_()
        self._weight, self._score_weight = weight, -2.0 * weight
        self._one = keys.new_ones(())
        self._s = keys.new_empty(steps, *keys.shape).unbind(0)

    def forward(self, t: int, query: Tensor) -> Tensor:
        s = torch.addcmul(self._one, self._grown, (query + query).exp_()[:, None], out=self._s[t]).reciprocal_()
        return s @ self._score_weight

    def rewind(self) -> None:
        self._d_keys, self._d_weight = torch.zeros_like(self._grown), torch.zeros_like(self._weight)

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        s = self._s[t]
        slope = torch.addcmul(s, s, s, value=-1.0)  # tanh' = 4 s (1 - s)
        self._d_weight -= d_scores.flatten() @ s.flatten(0, 1)
        self._d_keys.addcmul_(slope, d_scores[..., None])
        torch.mul(torch.bmm(d_scores[:, None], slope).squeeze(1), 4.0 * self._weight, out=d_query)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        return self._d_keys.mul_(4.0 * self._weight), self._d_weight.mul_(2.0)


class _DotScorer:
    """score = query . key times a constant."""

    def __init__(self, keys: Tensor, scale: Tensor, steps: int) -> None:
        self._keys, self._scale = keys, scale
        self._queries = keys.new_empty(steps, len(keys), keys.shape[-1])

    def forward(self, t: int, query: Tensor) -> Tensor:
        self._queries[t] = query
        return (self._keys @ query[..., None]).squeeze(-1) * self._scale

    def rewind(self) -> None:
        self._d_scores = self._keys.new_empty(len(self._queries), *self._keys.shape[:-1])

    def backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        scaled = torch.mul(d_scores, self._scale, out=self._d_scores[t])
        d_query.copy_((scaled[:, None] @ self._keys).squeeze(1))

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        return self._d_scores.permute(1, 2, 0) @ self._queries.transpose(0, 1), None


_SCORERS: dict[str, Callable[[Tensor, Tensor, int], _Scorer]] = {"additive": _AdditiveScorer, "dot": _DotScorer}


def _masked(hidden: Tensor, mask: Tensor | None, out: Tensor) -> Tensor:
    """The recurrent product's operand, in the operands' type."""
    return out.copy_(hidden) if mask is None else torch.mul(hidden, mask, out=out)


def _outputs(*buffers: Tensor) -> tuple[Tensor, ...]:
    """The buffers as other tensors: a node of autograd that keeps its very outputs keeps itself."""
    return tuple(buffer.detach() for buffer in buffers)

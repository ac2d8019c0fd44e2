"""Whole sequences through a recurrence, as one node of the autograd graph each.

A loop of small modules makes autograd keep every intermediate result and accumulate each weight's gradient in T small
products. Here the loop holds the sequential work only: inputs are projected before it, weight gradients are one product
after it, and backward is written out. The step-by-step decoder in decoder.py is the readable reference; tests hold both
together (gradients in float64 included).

`run_sequence`      a GRU or LSTM over given inputs: the encoder's layers and the plain decoder
`run_attended`      a GRU or LSTM whose next input holds the context that its last state attended to
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model.cells import CELLS, State, cell_backward, cell_forward
from nmt.model.products import operand, product


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
    apply: Callable[..., Tensor | tuple[Tensor, Tensor]] = _Sequence.apply
    results = apply(cell, dtype, inputs_TDBG, weight_DGH, bias_DG, mask_DBH, *start)
    return results if isinstance(results, tuple) else (results, None)


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
    ) -> Any:
        cell, state = CELLS[name], tuple(start)
        transposed = operand(weight, dtype).transpose(1, 2).contiguous()
        bias_row = bias[:, None]
        states, saved, operands = [], [], []
        for step in inputs.unbind(0):
            hidden = state[0] if mask is None else state[0] * mask
            recurrent = product(hidden, transposed, dtype) + bias_row
            operands.append(hidden)
            state, kept = cell_forward(cell, step, recurrent, state)
            states.append(state)
            saved.append(kept)
        ctx.cell, ctx.dtype, ctx.saved, ctx.operands = cell, dtype, saved, operands
        ctx.save_for_backward(weight, mask)
        outputs = tuple(torch.stack(column) for column in zip(*states, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, mask = ctx.saved_tensors
        factor = operand(weight, ctx.dtype)
        carried = tuple(torch.zeros_like(gradient[0]) for gradient in gradients)
        d_inputs, d_recurrents = [], []
        for t in range(len(ctx.saved) - 1, -1, -1):
            gradient = tuple(carry + outer[t] for carry, outer in zip(carried, gradients, strict=True))
            d_input, d_recurrent, before = cell_backward(ctx.cell, gradient, ctx.saved[t])
            through = product(d_recurrent, factor, ctx.dtype)
            carried = (before[0] + (through if mask is None else through * mask), *before[1:])
            d_inputs.append(d_input)
            d_recurrents.append(d_recurrent)
        d_inputs_TDBG = torch.stack(d_inputs[::-1])
        d_recurrent_DNG = torch.stack(d_recurrents[::-1], dim=1).flatten(1, 2)
        operands_DNH = torch.stack(ctx.operands, dim=1).flatten(1, 2)
        d_weight = product(d_recurrent_DNG.transpose(1, 2), operand(operands_DNH, ctx.dtype), ctx.dtype)
        return None, None, d_inputs_TDBG, d_weight, d_recurrent_DNG.sum(1), None, *carried


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
        cell, state = CELLS[name], tuple(start)
        query_size = len(query_weight)
        joint = operand(torch.cat([query_weight, weight]), dtype)  # query and gates read the same state: one product
        joint_T, context_T = joint.t().contiguous(), operand(context_weight, dtype).t().contiguous()
        additive = score == "additive"
        doubled_keys, doubled_score = 2.0 * keys, 2.0 * score_weight
        saved, scored, operands, contexts, weights, hiddens = [], [], [], [], [], []
        trains = any(ctx.needs_input_grad)
        for step in inputs.unbind(0):
            hidden = state[0] if mask is None else state[0] * mask
            projected = product(hidden, joint_T, dtype)
            query, recurrent = projected[:, :query_size], projected[:, query_size:] + bias
            if additive:
                # tanh(x) = 2 sigmoid(2x) - 1, and softmax does not see the constant; sigmoid is several times cheaper.
                squashed = (doubled_keys + (query + query)[:, None]).sigmoid_()
                scores = squashed @ doubled_score
                kept_scores = squashed
            else:
                scores = (keys @ query[..., None]).squeeze(-1) * score_weight
                kept_scores = query
            attention = torch.softmax(scores.masked_fill_(absent, -torch.inf), dim=-1)
            context = (attention[:, None] @ values).squeeze(1)
            state, kept = cell_forward(cell, step + product(context, context_T, dtype), recurrent, state)
            if trains:
                saved.append(kept)
                scored.append(kept_scores)
                operands.append(hidden)
            contexts.append(context)
            weights.append(attention)
            hiddens.append(state[0])
        contexts_TBC, weights_TBS = torch.stack(contexts), torch.stack(weights)
        ctx.cell, ctx.additive, ctx.dtype = cell, additive, dtype
        ctx.saved, ctx.scored, ctx.operands = saved, scored, operands
        ctx.save_for_backward(joint, context_weight, keys, values, score_weight, mask, contexts_TBC, weights_TBS)
        ctx.mark_non_differentiable(weights_TBS)
        return torch.stack(hiddens), contexts_TBC, weights_TBS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, _: Tensor) -> Any:
        joint, context_weight, keys, values, score_weight, mask, contexts_TBC, weights_TBS = ctx.saved_tensors
        dtype, query_size = ctx.dtype, keys.shape[-1]
        context_factor, values_T = operand(context_weight, dtype), values.transpose(1, 2).contiguous()
        carried = tuple(torch.zeros_like(d_hiddens[0]) for _ in range(ctx.cell.states))
        d_keys, d_score = torch.zeros_like(keys), torch.zeros_like(score_weight)
        d_inputs, d_projected, d_all_contexts = [], [], []
        for t in range(len(ctx.saved) - 1, -1, -1):
            gradient = (carried[0] + d_hiddens[t], *carried[1:])
            d_input, d_recurrent, before = cell_backward(ctx.cell, gradient, ctx.saved[t])
            d_context = d_contexts[t] + product(d_input, context_factor, dtype)
            d_weights = (d_context[:, None] @ values_T).squeeze(1)
            attention = weights_TBS[t]
            weighted = attention * d_weights
            d_scores = weighted - attention * weighted.sum(-1, keepdim=True)
            scored = ctx.scored[t]
            if ctx.additive:
                d_score += (d_scores.flatten() @ scored.flatten(0, 1)).mul_(2.0)
                slope = (scored - scored * scored).mul_(d_scores[..., None])
                d_keys += slope
                d_query = slope.sum(1).mul_(4.0 * score_weight)
            else:
                scaled = d_scores * score_weight
                d_keys += scaled[..., None] * scored[:, None]
                d_query = (scaled[:, None] @ keys).squeeze(1)
            d_joint = torch.cat([d_query, d_recurrent], dim=-1)
            through = product(d_joint, joint, dtype)
            carried = (before[0] + (through if mask is None else through * mask), *before[1:])
            d_inputs.append(d_input)
            d_projected.append(d_joint)
            d_all_contexts.append(d_context)
        if ctx.additive:
            d_keys = d_keys.mul_(4.0 * score_weight)
        d_inputs_TBG, d_projected_TBG, d_contexts_TBC = (
            torch.stack(column[::-1]) for column in (d_inputs, d_projected, d_all_contexts)
        )
        d_values = weights_TBS.permute(1, 2, 0) @ d_contexts_TBC.transpose(0, 1)
        operands_NH = operand(torch.stack(ctx.operands).flatten(0, 1), dtype)
        d_joint_weight = product(d_projected_TBG.flatten(0, 1).t(), operands_NH, dtype)
        contexts_NC = operand(contexts_TBC.flatten(0, 1), dtype)
        d_context_weight = product(d_inputs_TBG.flatten(0, 1).t(), contexts_NC, dtype)
        d_bias = d_projected_TBG[..., query_size:].sum((0, 1))
        return (
            None, None, None, d_inputs_TBG, d_keys, d_values, None,
            d_joint_weight[:query_size], d_score if ctx.additive else None, d_context_weight,
            d_joint_weight[query_size:], d_bias, None, *carried,
        )  # fmt: skip

"""Whole sequences through a recurrence, as one node of the autograd graph each.

A loop of small modules makes autograd keep every intermediate result and accumulate each weight's gradient in T small
products. Here the loop holds the sequential work only: inputs are projected before it, weight gradients are one product
after it, and backward is written out. The step-by-step decoder in decoder.py is the readable reference; tests hold both
together (gradients in float64 included). A single layer without normalisation has compiled kernels (compiled.py): a
GRU on a GPU; a GRU or LSTM on a CPU, if its widths are multiples of 16.

`run_sequence`      a GRU or LSTM over given inputs: the encoder's layers and the plain decoder
`run_attended`      one or more layers of them whose next input holds the context that the last state attended to
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model import compiled
from nmt.model.cells import CELLS, State, Tape, by_step
from nmt.model.native import recurrence as native
from nmt.model.native.library import LANES
from nmt.model.normalization import Norm, make_tape
from nmt.model.products import Factor, operand, operand_type, weight_gradient
from nmt.model.scorers import SCORERS, Scorer


def run_sequence(
    cell: str,
    inputs_TDBG: Tensor,
    start: State,
    weight_DGH: Tensor,
    bias_DG: Tensor,
    mask_DBH: Tensor | None,
    dtype: torch.dtype,
    norm: Norm | None = None,
    mirror_TB: Tensor | None = None,
) -> Tensor:
    """Run D independent recurrences side by side.

    `inputs_TDBG` are projected inputs with their bias, `start` the first state ([D, B, H] each), `mask_DBH` the dropout
    mask on the recurrent product's operand, `dtype` the products' type; with a `norm` ([D, 1, G] each) the cells
    normalise. The second direction's step t stands at `mirror_TB[t]`, if that is given: an order that is its own
    inverse. Returns hidden states [T, D, B, H].
    """
    kernels = _kernels(cell, norm, inputs_TDBG, start[0].shape[-1])
    hidden: Tensor
    if kernels is native:  # which reads and writes a mirrored direction where it stands
        hidden = kernels.Sequence.apply(dtype, inputs_TDBG, weight_DGH, bias_DG, mask_DBH, mirror_TB, *start)
        return hidden
    if mirror_TB is not None:
        inputs_TDBG = _mirrored(inputs_TDBG, mirror_TB)
    if kernels is not None:
        hidden = kernels.Sequence.apply(dtype, inputs_TDBG, weight_DGH, bias_DG, mask_DBH, *start)
    else:
        node: Any = _Sequence
        hidden = node.apply(cell, dtype, norm, inputs_TDBG, weight_DGH, bias_DG, mask_DBH, *start, *(norm or ()))
    return hidden if mirror_TB is None else _mirrored(hidden, mirror_TB)


def _kernels(cell: str, norm: Norm | None, inputs: Tensor, *widths: int, positions: int = 0) -> ModuleType | None:
    """The module of compiled kernels that computes this, where there is one: its `Sequence` and `Attended`."""
    if norm is not None or inputs.dtype != torch.float32:
        return None
    if compiled.on_cpu(inputs) and all(width % LANES == 0 for width in widths):
        return native
    kernels = compiled.on_gpu(inputs.device) if cell == "gru" else None
    return kernels if kernels is not None and positions <= kernels.LONGEST else None


def _mirrored(steps_TDBX: Tensor, mirror_TB: Tensor) -> Tensor:
    """The second direction's steps in the order that `mirror_TB` gives."""
    ahead, back = steps_TDBX.unbind(1)
    mirrored: Callable[[Tensor, Tensor], Tensor] = _Mirrored.apply
    return torch.stack([ahead, mirrored(back, mirror_TB)], dim=1)


class _Mirrored(torch.autograd.Function):
    """Each sentence's steps in the order that `mirror_TB` gives, which done twice is none.

    So its gradient is the same permutation. Autograd's gradient of `gather` is a scatter-add, which fills a tensor with
    zeros first and on CUDA, where it must be deterministic, sorts all indices.
    """

    @staticmethod
    def forward(ctx: Any, steps_TBX: Tensor, mirror_TB: Tensor) -> Tensor:
        ctx.save_for_backward(mirror_TB)
        return _gathered(steps_TBX, mirror_TB)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_steps_TBX: Tensor) -> tuple[Tensor, None]:
        (mirror_TB,) = ctx.saved_tensors
        return _gathered(d_steps_TBX, mirror_TB), None


def _gathered(steps_TBX: Tensor, mirror_TB: Tensor) -> Tensor:
    return steps_TBX.gather(0, mirror_TB[..., None].expand_as(steps_TBX))


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        dtype: torch.dtype,
        norm: Norm | None,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        *learned: Tensor,
    ) -> Tensor:
        state: State = learned[: CELLS[name].states]
        transposed = operand(weight, dtype).transpose(1, 2).contiguous()
        bias_row = bias[:, None]
        tape = make_tape(CELLS[name], state[0], len(inputs), norm)
        operands = torch.empty_like(tape.hidden, dtype=operand_type(inputs, dtype))
        for t, (projected, read) in enumerate(zip(inputs.unbind(0), operands.unbind(0), strict=True)):
            recurrent = (_masked(state[0], mask, out=read) @ transposed).to(inputs.dtype) + bias_row
            state = tape.forward(t, projected, recurrent, state)
        ctx.dtype, ctx.tape, ctx.operands, ctx.states = dtype, tape, operands, len(state)
        ctx.save_for_backward(weight, mask)
        return _output(tape.hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> Any:
        weight, mask = ctx.saved_tensors
        tape: Tape = ctx.tape
        factor = operand(weight, ctx.dtype)
        carried: State = tuple(torch.zeros_like(d_hidden[0]) for _ in range(ctx.states))
        d_inputs, d_recurrents = (tape.hidden.new_empty(*tape.hidden.shape[:-1], weight.shape[1]) for _ in range(2))
        tape.begin_backward(d_inputs, d_recurrents)
        for t, (d_recurrent, outer) in reversed(list(enumerate(by_step(d_recurrents, d_hidden)))):
            before = tape.backward(t, (carried[0] + outer, *carried[1:]))
            through = (operand(d_recurrent, ctx.dtype) @ factor).to(d_recurrent.dtype)
            carried = (before[0] + (through if mask is None else through * mask), *before[1:])
        d_recurrent_DNG, operands_DNH = (
            steps_TDBX.transpose(0, 1).flatten(1, 2) for steps_TDBX in (operand(d_recurrents, ctx.dtype), ctx.operands)
        )
        d_weight = (d_recurrent_DNG.transpose(1, 2) @ operands_DNH).to(weight.dtype)
        d_bias = d_recurrents.sum((0, 2))
        return None, None, None, d_inputs, d_weight, d_bias, None, *carried, *tape.gradients()


class Layer(NamedTuple):
    """One of the layers over which attention goes round: its weights as in encoder.py, first state and dropout."""

    weight_GH: Tensor
    bias_G: Tensor
    start: State
    """[B, H] each."""
    mask_BH: Tensor | None
    """On the recurrent product's operand."""
    input_weight_GH: Tensor | None
    """On the states of the layer below. The first layer has none: its inputs come projected."""
    input_bias_G: Tensor | None
    norm: Norm | None


def run_attended(
    cell: str, score: str, dtype: torch.dtype,
    inputs_TBG: Tensor, keys_BSA: Tensor, values_BSC: Tensor, padding_BS: Tensor,
    query_weight_AH: Tensor, score_weight_A: Tensor, context_weight_GC: Tensor,
    layers: Sequence[Layer], between_BH: Tensor | None, residual: bool, asked_TBA: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run the attention decoder's recurrence, teacher-forced.

    At each step: query = W_q h of the top layer, plus the step's row of `asked_TBA` if there is one; weights =
    softmax(score(query, keys)); context = weights values; the first layer reads its projected input plus W_c context,
    every other one the layer below under the dropout mask `between_BH`, and if `residual` it hands on its state plus
    what it was handed. `score` is "additive": w . tanh(query + key), or "dot": query . key times score_weight_A[0].
    `padding_BS` is true at padding. Returns what the top layer hands on [T, B, H], contexts [T, B, C] and weights
    [T, B, S]; the weights are for looking at and carry no gradient.
    """
    only = layers[0]
    widths = only.start[0].shape[-1], keys_BSA.shape[-1], values_BSC.shape[-1]
    positions = keys_BSA.shape[1]
    kernels = _kernels(cell, only.norm, inputs_TBG, *widths, positions=positions) if len(layers) == 1 else None
    node: Any = kernels.Attended if kernels is not None else _Attended
    results: tuple[Tensor, Tensor, Tensor]
    if kernels is not None:
        results = node.apply(
            score, dtype, inputs_TBG, keys_BSA, values_BSC, padding_BS, query_weight_AH, score_weight_A,
            context_weight_GC, only.weight_GH, only.bias_G, only.mask_BH, asked_TBA, *only.start,
        )  # fmt: skip
        return results
    learned = [tensor for layer in layers for tensor in _learned(layer)]
    results = node.apply(
        cell, score, dtype, layers, between_BH, residual, inputs_TBG, keys_BSA, values_BSC, padding_BS,
        query_weight_AH, score_weight_A, context_weight_GC, asked_TBA, *learned,
    )  # fmt: skip
    return results


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: str, score: str, dtype: torch.dtype, layers: Sequence[Layer], between: Tensor | None,
        residual: bool, inputs: Tensor, keys: Tensor, values: Tensor, padding: Tensor,
        query_weight: Tensor, score_weight: Tensor, context_weight: Tensor, asked: Tensor | None, *learned: Tensor,
    ) -> Any:  # fmt: skip
        steps, batch = len(inputs), len(keys)
        queries = [query_weight[:0]] * (len(layers) - 1) + [query_weight]
        stack = [_Running(cell, dtype, steps, *each, between) for each in zip(layers, queries, strict=True)]
        context_factor = Factor(context_weight, dtype, batch)
        scorer = SCORERS[score](keys, score_weight, steps)
        contexts, weights = values.new_empty(steps, batch, values.shape[-1]), keys.new_empty(steps, *padding.shape)
        read_contexts = torch.empty_like(contexts, dtype=operand_type(inputs, dtype))
        outputs = torch.empty_like(stack[-1].tape.hidden) if residual else stack[-1].tape.hidden
        barrier = keys.new_zeros(padding.shape).masked_fill_(padding, -torch.inf)
        buffers = by_step(inputs, contexts, contexts.unsqueeze(2), weights, weights.unsqueeze(2), read_contexts)
        for t, (given, context, context_row, attention, attention_row, read_context) in enumerate(buffers):
            query = [layer.recall(t) for layer in stack][-1]
            if asked is not None:
                query = query + asked[t]
            torch.softmax(scorer.forward(t, query).add_(barrier), dim=-1, out=attention)
            torch.bmm(attention_row, values, out=context_row)
            stack[0].forward(t, given + context_factor(read_context.copy_(context)))
            output = stack[0].state[0]
            for layer in stack[1:]:
                layer.forward(t, layer.project(t, output))
                output = layer.state[0] + output if residual else layer.state[0]
            if residual:
                outputs[t] = output
        ctx.dtype, ctx.stack, ctx.scorer, ctx.read_contexts = dtype, stack, scorer, read_contexts
        ctx.residual, ctx.asks_more = residual, asked is not None
        ctx.save_for_backward(context_weight, values, weights)
        ctx.mark_non_differentiable(weights)
        return _output(outputs), _output(contexts), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, _: Tensor) -> Any:
        context_weight, values, weights = ctx.saved_tensors
        dtype: torch.dtype = ctx.dtype
        stack: list[_Running] = ctx.stack
        scorer: Scorer = ctx.scorer
        scorer.begin_backward()
        for layer in stack:
            layer.begin_backward()
        first, top = stack[0], stack[-1]
        context_factor = Factor(context_weight.t(), dtype, values.shape[0])
        values_T = values.transpose(1, 2).contiguous()
        d_all_contexts = torch.empty_like(d_contexts)
        buffers = by_step(weights, d_hiddens, d_contexts, first.d_inputs, top.d_queries, d_all_contexts,
                          d_all_contexts.unsqueeze(2))  # fmt: skip
        for t, (attention, outer, d_read, d_input, d_query, d_context, d_row) in reversed(list(enumerate(buffers))):
            top.backward(t, outer)
            for layer, below in pairwise(reversed(stack)):
                outer = layer.project_back(t) + outer if ctx.residual else layer.project_back(t)
                below.backward(t, outer)
            torch.add(d_read, context_factor(operand(d_input, dtype)), out=d_context)
            d_weights = torch.bmm(d_row, values_T).squeeze(1)
            d_scores = torch._softmax_backward_data(d_weights, attention, -1, d_weights.dtype)
            scorer.backward(t, d_scores, d_query)
            for layer in stack:
                layer.recall_back(t)
        d_keys, d_score_weight = scorer.gradients()
        d_values = weights.permute(1, 2, 0) @ d_all_contexts.transpose(0, 1)
        d_context_weight = _weight_gradient(first.d_inputs, ctx.read_contexts)
        d_learned = [gradient for layer in stack for gradient in layer.gradients()]
        return (
            None, None, None, None, None, None, first.d_inputs, d_keys, d_values, None,
            top.d_query_weight, d_score_weight, d_context_weight, top.d_queries if ctx.asks_more else None, *d_learned,
        )  # fmt: skip


class _Running:
    """A layer on its way through the steps, and back. Query and gates read the same state, so they are one product."""

    def __init__(
        self, cell: str, dtype: torch.dtype, steps: int, layer: Layer, query_weight: Tensor, between: Tensor | None
    ) -> None:
        batch = len(layer.start[0])
        self.layer, self.dtype, self.between = layer, dtype, between
        self.joint = torch.cat([query_weight, layer.weight_GH])
        self.joint_bias = torch.cat([layer.bias_G.new_zeros(len(query_weight)), layer.bias_G])
        self.joint_factor = Factor(self.joint, dtype, batch)
        self.tape = make_tape(CELLS[cell], layer.start[0], steps, layer.norm)
        self.state = layer.start
        self.sizes = [len(query_weight), self.tape.gates]
        self.read = torch.empty_like(self.tape.hidden, dtype=operand_type(layer.bias_G, dtype))
        self.read_rows = self.read.unbind(0)
        if layer.input_weight_GH is not None and layer.input_bias_G is not None:
            self.input_bias = layer.input_bias_G
            self.input_factor = Factor(layer.input_weight_GH, dtype, batch)
            self.read_below = torch.empty_like(self.read)

    def recall(self, t: int) -> Tensor:
        """What the state after the last step asks for: a query [B, A], and what `forward` will need."""
        read = _masked(self.state[0], self.layer.mask_BH, out=self.read_rows[t])
        query, self.recurrent = (self.joint_factor(read) + self.joint_bias).split_with_sizes(self.sizes, dim=-1)
        return query

    def project(self, t: int, below: Tensor) -> Tensor:
        """The gates' inputs from the state of the layer below."""
        return self.input_factor(_masked(below, self.between, out=self.read_below[t])) + self.input_bias

    def forward(self, t: int, inputs: Tensor) -> None:
        """Go on to the next state."""
        self.state = self.tape.forward(t, inputs, self.recurrent, self.state)

    def begin_backward(self) -> None:
        """Begin the backward pass."""
        steps, batch = self.read.shape[:2]
        self.d_inputs, self.d_joint = (
            self.tape.hidden.new_empty(steps, batch, width) for width in (self.tape.gates, sum(self.sizes))
        )
        self.d_queries, d_recurrents = self.d_joint.split_with_sizes(self.sizes, dim=-1)
        self.tape.begin_backward(self.d_inputs, d_recurrents)
        self.d_joint_rows = self.d_joint.unbind(0)
        self.joint_factor_back = Factor(self.joint.t(), self.dtype, batch)
        self.carried: State = tuple(torch.zeros_like(self.tape.hidden[0]) for _ in self.state)
        if self.layer.input_weight_GH is not None:
            self.input_factor_back = Factor(self.layer.input_weight_GH.t(), self.dtype, batch)

    def backward(self, t: int, outer: Tensor) -> None:
        """Step t, with the gradient that comes from above."""
        self.before = self.tape.backward(t, (self.carried[0] + outer, *self.carried[1:]))

    def project_back(self, t: int) -> Tensor:
        """The gradient of the layer below."""
        through = self.input_factor_back(operand(self.d_inputs[t], self.dtype)).to(self.d_inputs.dtype)
        return through if self.between is None else through * self.between

    def recall_back(self, t: int) -> None:
        """The gradient of the state before step t, when the query's is known."""
        before, mask = self.before, self.layer.mask_BH
        through = self.joint_factor_back(operand(self.d_joint_rows[t], self.dtype)).to(before[0].dtype)
        self.carried = (before[0] + (through if mask is None else through * mask), *before[1:])

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of what `_learned` names; the query's weight has its own in `d_query_weight`."""
        self.d_query_weight, d_weight = _weight_gradient(self.d_joint, self.read).split_with_sizes(self.sizes)
        d_bias = self.d_joint[..., self.sizes[0] :].sum((0, 1))
        gradients = [d_weight, d_bias, *self.carried, *self.tape.gradients()]
        if self.layer.input_weight_GH is not None:
            gradients += [_weight_gradient(self.d_inputs, self.read_below), self.d_inputs.sum((0, 1))]
        return tuple(gradients)


def _learned(layer: Layer) -> list[Tensor]:
    """What of a layer has a gradient."""
    own = [layer.weight_GH, layer.bias_G, *layer.start, *(layer.norm or ())]
    return own + [tensor for tensor in (layer.input_weight_GH, layer.input_bias_G) if tensor is not None]


def _weight_gradient(d_results_TBN: Tensor, read_TBK: Tensor) -> Tensor:
    """The gradient [N, K] of a weight over all steps, as one product."""
    return weight_gradient(d_results_TBN.flatten(0, 1).to(read_TBK.dtype), read_TBK.flatten(0, 1))


def _masked(hidden: Tensor, mask: Tensor | None, out: Tensor) -> Tensor:
    """The recurrent product's operand, in the operands' type."""
    return out.copy_(hidden) if mask is None else torch.mul(hidden, mask, out=out)


def _output(buffer: Tensor) -> Tensor:
    """The buffer as another tensor: a node of autograd that keeps its very output keeps itself."""
    return buffer.detach()

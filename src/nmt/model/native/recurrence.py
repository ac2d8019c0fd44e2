"""One GRU or LSTM layer over whole sequences, as one node of the autograd graph each."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model.native.library import Arguments, call, fields
from nmt.model.native.products import weight_gradient
from nmt.model.scorers import SATURATED


class _SequenceArguments(Arguments):
    _fields_ = fields(
        "steps directions batch units",
        "inputs start start_cell_state weight bias mask mirror hidden cell_state saved read "
        "d_hidden d_inputs d_start d_start_cell_state d_bias d_recurrent",
    )


class _AttendedArguments(Arguments):
    _fields_ = fields(
        "steps batch source units key_size value_size additive",
        "inputs keys values joint_weight score_weight context_weight bias start start_cell_state mask asked "
        "padding hidden cell_state saved queries weights contexts read read_contexts "
        "d_hidden d_read_contexts d_inputs d_contexts d_queries d_start d_start_cell_state d_bias d_keys d_factor "
        "d_operand d_joint",
    )


class Sequence(torch.autograd.Function):
    """recurrence.run_sequence without normalisation.

    Inside inputs and states lie as [T, B, D, .], which is how an encoder makes and uses them.
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, inputs: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None,
        mirror: Tensor | None, start: Tensor, *cell_state: Tensor,
    ) -> Tensor:  # fmt: skip
        steps, (directions, batch, units) = len(inputs), start.shape
        tensors = {
            "inputs": inputs.transpose(1, 2), "start": start, "start_cell_state": cell_state[0] if cell_state else None,
            "weight": weight, "bias": bias, "mask": mask, "mirror": mirror,
        }  # fmt: skip
        hidden = start.new_empty(steps, batch, directions, units)
        ctx.fields = _without_gaps(tensors) | {
            "steps": steps, "directions": directions, "batch": batch, "units": units,
            "hidden": hidden, "cell_state": torch.empty_like(hidden) if cell_state else None,
            "saved": start.new_empty(directions, steps, batch, (5 if cell_state else 4) * units),
            "read": start.new_empty(directions, steps, batch, units, dtype=dtype),
        }  # fmt: skip
        ctx.dtype = dtype
        call("sequence_forward", dtype, _SequenceArguments(**ctx.fields))
        return hidden.transpose(1, 2)  # another tensor than what is kept: a node that keeps its output keeps itself

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> Any:
        inputs, start, start_cell_state, read = (
            ctx.fields[each] for each in ("inputs", "start", "start_cell_state", "read")
        )
        d_inputs, d_start = torch.empty_like(inputs), torch.zeros_like(start)
        d_start_cell_state = None if start_cell_state is None else torch.zeros_like(start)
        d_bias = inputs.new_zeros(*start.shape[:2], inputs.shape[-1])
        d_recurrent = read.new_empty(*read.shape[:-1], inputs.shape[-1])
        more = {
            "d_hidden": d_hidden.transpose(1, 2).contiguous(), "d_inputs": d_inputs, "d_start": d_start,
            "d_start_cell_state": d_start_cell_state, "d_bias": d_bias, "d_recurrent": d_recurrent,
        }  # fmt: skip
        call("sequence_backward", ctx.dtype, _SequenceArguments(**ctx.fields, **more))
        pairs = zip(d_recurrent.flatten(1, 2), read.flatten(1, 2), strict=True)
        d_weight = torch.stack([weight_gradient(d_results, rows) for d_results, rows in pairs])
        return (
            None,
            d_inputs.transpose(1, 2),
            d_weight,
            d_bias.sum(1),
            None,
            None,
            *_present(d_start, d_start_cell_state),
        )


class Attended(torch.autograd.Function):
    """recurrence.run_attended of one layer without normalisation."""

    @staticmethod
    def forward(
        ctx: Any, score: str, dtype: torch.dtype, inputs: Tensor, keys: Tensor, values: Tensor, padding: Tensor,
        query_weight: Tensor, score_weight: Tensor, context_weight: Tensor,
        weight: Tensor, bias: Tensor, mask: Tensor | None, asked: Tensor | None, start: Tensor, *cell_state: Tensor,
    ) -> Any:  # fmt: skip
        steps, (batch, source, key_size), value_size = len(inputs), keys.shape, values.shape[-1]
        additive, units = score == "additive", start.shape[-1]
        if additive:  # tanh by exponentials, as in scorers.py
            keys = keys.clamp(-SATURATED, SATURATED).mul_(2.0).exp_()
        tensors = {
            "inputs": inputs, "keys": keys, "values": values, "joint_weight": torch.cat([query_weight, weight]),
            "score_weight": score_weight, "context_weight": context_weight, "bias": bias, "start": start,
            "start_cell_state": cell_state[0] if cell_state else None, "mask": mask, "asked": asked, "padding": padding,
        }  # fmt: skip
        hidden, saved, queries, weights, contexts = (
            keys.new_empty(steps, batch, width)
            for width in (units, (5 if cell_state else 4) * units, key_size, source, value_size)
        )
        read, read_contexts = (keys.new_empty(steps, batch, width, dtype=dtype) for width in (units, value_size))
        ctx.fields = _without_gaps(tensors) | {
            "steps": steps, "batch": batch, "source": source, "units": units, "key_size": key_size,
            "value_size": value_size, "additive": additive, "hidden": hidden,
            "cell_state": torch.empty_like(hidden) if cell_state else None, "saved": saved, "queries": queries,
            "weights": weights, "contexts": contexts, "read": read, "read_contexts": read_contexts,
        }  # fmt: skip
        ctx.dtype = dtype
        call("attended_forward", dtype, _AttendedArguments(**ctx.fields))
        weights = weights.detach()
        ctx.mark_non_differentiable(weights)
        return hidden.detach(), contexts.detach(), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor, d_read_contexts: Tensor, _: Tensor) -> Any:
        names = "inputs keys asked start joint_weight score_weight weights contexts read read_contexts"
        inputs, keys, asked, start, joint_weight, score_weight, weights, contexts, read, read_contexts = (
            ctx.fields[name] for name in names.split()
        )
        d_inputs, d_contexts = torch.empty_like(inputs), torch.empty_like(contexts)
        d_queries = None if asked is None else torch.empty_like(asked)
        d_start, d_bias, d_keys = (torch.zeros_like(each) for each in (start, inputs[0], keys))
        d_start_cell_state = None if ctx.fields["cell_state"] is None else torch.zeros_like(start)
        d_factor = torch.zeros_like(keys[:, 0])
        d_operand, d_joint = (
            read.new_empty(*read.shape[:-1], width) for width in (inputs.shape[-1], len(joint_weight))
        )
        more = {
            "d_hidden": d_hidden.contiguous(), "d_read_contexts": d_read_contexts.contiguous(), "d_inputs": d_inputs,
            "d_contexts": d_contexts, "d_queries": d_queries, "d_start": d_start,
            "d_start_cell_state": d_start_cell_state, "d_bias": d_bias, "d_keys": d_keys, "d_factor": d_factor,
            "d_operand": d_operand, "d_joint": d_joint,
        }  # fmt: skip
        call("attended_backward", ctx.dtype, _AttendedArguments(**ctx.fields, **more))
        d_values = weights.permute(1, 2, 0) @ d_contexts.transpose(0, 1)
        d_context_weight = weight_gradient(d_operand.flatten(0, 1), read_contexts.flatten(0, 1))
        d_joint_weight = weight_gradient(d_joint.flatten(0, 1), read.flatten(0, 1))
        d_query_weight, d_weight = d_joint_weight.split_with_sizes([keys.shape[-1], inputs.shape[-1]])
        additive = ctx.fields["additive"]
        return (
            None, None, d_inputs, d_keys.mul_(4.0 * score_weight if additive else score_weight), d_values, None,
            d_query_weight, d_factor.sum(0) if additive else None, d_context_weight,
            d_weight, d_bias.sum(0), None, d_queries, *_present(d_start, d_start_cell_state),
        )  # fmt: skip


def _present(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _without_gaps(tensors: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if each is None else each.contiguous() for name, each in tensors.items()}

"""Matrix products in a chosen precision: operands and result in `dtype`, all else in float32 (float64 in tests).

The sum inside a bfloat16 product is float32 in the hardware; what comes out is rounded once and held as float32, or by
compiled kernels (compiled.py) not rounded at all.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nmt.model import compiled
from nmt.model.native import products as native


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`inputs @ weight.T + bias`; the product alone runs in `dtype` when that is bfloat16."""
    if inputs.dtype is not torch.float32:
        return functional.linear(inputs, weight, bias)
    apply: Callable[..., Tensor] = _Linear.apply
    return apply(inputs, weight, bias, dtype)


class _Linear(torch.autograd.Function):
    """What autograd would do, by the fastest product that there is for each of the three."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        rows = operand(inputs, dtype).flatten(0, -2)
        factor = weight if _native(rows, weight, weight.t()) else operand(weight, dtype)
        ctx.save_for_backward(rows, factor)
        ctx.size, ctx.biased = inputs.shape, bias is not None
        return product(rows, factor, bias).view(*inputs.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> Any:
        rows, factor = ctx.saved_tensors
        d_result = d_result.flatten(0, -2)
        d_rows = operand(d_result, rows.dtype)
        d_inputs = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_inputs = product(d_rows, factor.t()).view(ctx.size)
        if ctx.needs_input_grad[1]:
            d_weight = weight_gradient(d_rows, rows)
        if ctx.biased and ctx.needs_input_grad[2]:
            d_bias = d_result.sum(0)
        return d_inputs, d_weight, d_bias, None


def product(rows_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`rows @ weight.T + bias` of operands, as float32; the weight may be a transposed one.

    Compiled kernels take a float32 weight beside rows of either type, and round it themselves.
    """
    if _native(rows_MK, weight_NK):
        return native.product(rows_MK, weight_NK, bias_N)
    if rows_MK.dtype is not torch.bfloat16:
        if rows_MK.dtype is torch.float32 and _packs(rows_MK.device.type, torch.float32):
            # Also without packing oneDNN is a tenth faster than BLAS, to which functional.linear goes in float32. For
            # parts of larger matrices it has no fast kernel.
            weight = weight_NK if weight_NK.t().is_contiguous() else weight_NK.contiguous()
            operands = rows_MK.contiguous(), weight, bias_N
            result: Tensor = torch.ops.mkldnn._linear_pointwise(*operands, "none", [], "")
            return result
        return functional.linear(rows_MK, weight_NK, bias_N)
    rounded = (rows_MK @ weight_NK.t()).float()
    return rounded if bias_N is None else rounded + bias_N


def weight_gradient(d_results_MN: Tensor, rows_MK: Tensor) -> Tensor:
    """`d_results.T @ rows` of operands, as float32 (float64 of such)."""
    if compiled.on_cpu(d_results_MN):
        return native.weight_gradient(d_results_MN, rows_MK)
    gradient = d_results_MN.t() @ rows_MK
    return gradient.float() if rows_MK.dtype is torch.bfloat16 else gradient


def _native(rows_MK: Tensor, *weights: Tensor) -> bool:
    """Whether compiled kernels multiply these: float32 weights, inner numbers that come in pairs."""
    fit = all(weight.dtype is torch.float32 and weight.shape[1] % 2 == 0 for weight in weights)
    return fit and compiled.on_cpu(rows_MK)


def operand(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` as an operand of a product."""
    return tensor.to(operand_type(tensor, dtype))


def operand_type(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type in which `tensor` would be an operand."""
    return dtype if dtype is torch.bfloat16 else tensor.dtype


@functools.cache
def _packs(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN has an order of its own for weights of that type, on that kind of device and this processor."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    supports_bfloat16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype is torch.float32 or (dtype is torch.bfloat16 and supports_bfloat16)


class Factor:
    """A weight [N, K], perhaps with a bias [N], that is to multiply many inputs of the same shape [M, K].

    `rows` is M, None where it is not the same for all. On a CPU the weight is put once into the order in which oneDNN
    reads it: a quarter faster in float32 at the sizes of a recurrence, a tenth in bfloat16, and the bias costs no pass
    of its own (docs/experiments.md).
    """

    def __init__(self, weight_NK: Tensor, dtype: torch.dtype, rows: int | None, bias_N: Tensor | None = None) -> None:
        weight = operand(weight_NK, dtype).contiguous()
        self._bias = None if bias_N is None else operand(bias_N, dtype)
        self._packed = _packs(weight.device.type, weight.dtype)
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if self._packed else weight

    def __call__(self, inputs_MK: Tensor) -> Tensor:
        """`inputs @ weight.T + bias` [M, N] of an operand, in the operand's type."""
        if not self._packed:
            return functional.linear(inputs_MK, self._weight, self._bias)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_MK, self._weight, self._bias, "none", [], "")
        return result

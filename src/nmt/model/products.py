"""Matrix products in a chosen precision: operands and result in `dtype`, all else in float32 (float64 in tests).

The sum inside a bfloat16 product is float32 in the hardware; what comes out is rounded once and held as float32.
"""

import torch
from torch import Tensor
from torch.nn import functional


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`inputs @ weight.T + bias`; the product alone runs in `dtype` when that is bfloat16."""
    if dtype is not torch.bfloat16:
        return functional.linear(inputs, weight, bias)
    product = functional.linear(inputs.to(dtype), weight.to(dtype)).to(inputs.dtype)
    return product if bias is None else product + bias


def operand(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` as an operand of a product."""
    return tensor.to(dtype) if dtype is torch.bfloat16 else tensor


def product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """`left @ right` of 2-d or 3-d tensors, `right` already an operand; the result has `left`'s type."""
    if dtype is not torch.bfloat16:
        return left @ right
    return (left.to(dtype) @ right).to(left.dtype)

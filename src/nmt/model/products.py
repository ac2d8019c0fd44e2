"""Matrix products in a chosen precision: operands and result in `dtype`, all else in float32 (float64 in tests).

The sum inside a bfloat16 product is float32 in the hardware; what comes out is rounded once and held as float32.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`inputs @ weight.T + bias`; the product alone runs in `dtype` when that is bfloat16."""
    if dtype is not torch.bfloat16:
        return functional.linear(inputs, weight, bias)
    result = functional.linear(inputs.to(dtype), weight.to(dtype)).to(inputs.dtype)
    return result if bias is None else result + bias


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

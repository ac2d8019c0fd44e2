"""Products whose left operand has the products' type, with a float32 weight and a float32 result."""

import torch
from torch import Tensor

from nmt.model.native.library import Arguments, call, fields


class _Product(Arguments):
    _fields_ = fields("rows inner columns by_column by_inner", "left weight bias out")


class _TransposedProduct(Arguments):
    _fields_ = fields("rows left_columns right_columns", "left right out")


def product(rows_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`rows @ weight.T + bias`; the weight is float32 and may be a transposed one."""
    rows_MK = rows_MK.contiguous()
    if 1 not in weight_NK.stride():
        weight_NK = weight_NK.contiguous()
    (rows, inner), columns = rows_MK.shape, len(weight_NK)
    out = torch.empty(rows, columns)
    by_column, by_inner = weight_NK.stride()
    arguments = _Product(
        rows=rows, inner=inner, columns=columns, by_column=by_column, by_inner=by_inner,
        left=rows_MK, weight=weight_NK.data_ptr(), bias=bias_N, out=out,
    )  # fmt: skip
    call("product", rows_MK.dtype, arguments)
    return out


def weight_gradient(d_results_MN: Tensor, rows_MK: Tensor) -> Tensor:
    """`d_results.T @ rows` of operands."""
    d_results_MN, rows_MK = d_results_MN.contiguous(), rows_MK.contiguous()
    out = torch.empty(d_results_MN.shape[1], rows_MK.shape[1])
    arguments = _TransposedProduct(
        rows=len(rows_MK), left_columns=len(out), right_columns=out.shape[1],
        left=d_results_MN, right=rows_MK, out=out,
    )  # fmt: skip
    call("transposed_product", rows_MK.dtype, arguments)
    return out

"""The loss over the vocabulary."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model.native.library import Arguments, call, fields


class _Loss(Arguments):
    _fields_ = fields(
        "tokens inner words", "read weight bias targets plain smoothed d_read d_weight d_bias", floats="smoothing"
    )


def smoothed_cross_entropy(
    readout_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor, smoothing: float, dtype: torch.dtype,
    chunk: int, learning: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """output.smoothed_cross_entropy, `chunk` tokens at a time; with what gradients need if something is `learning`."""
    apply: Any = _NativeLoss.apply
    smoothed: Tensor
    plain: Tensor
    smoothed, plain = apply(readout_NE, weight_VE, bias_V, targets_N, smoothing, dtype, chunk, learning)
    return smoothed, plain


class _NativeLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, readout: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float,
        dtype: torch.dtype, chunk: int, learning: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        weight, bias, targets = weight.contiguous(), bias.contiguous(), targets.contiguous()
        read = readout.to(dtype).contiguous()
        plain, smoothed = readout.new_empty(2, len(read)).unbind(0)
        d_readout = torch.empty_like(readout, memory_format=torch.contiguous_format) if learning else None
        sums: list[Tensor] = []
        """Of what the chunks so far say about weight and bias."""
        for begin in range(0, len(read), chunk):
            span = slice(begin, begin + chunk)
            more = [torch.empty_like(weight), torch.empty_like(bias)] if learning else []
            d_read, d_weight, d_bias = (None, None, None) if d_readout is None else (d_readout[span], *more)
            arguments = _Loss(
                tokens=len(read[span]), inner=read.shape[1], words=len(weight), smoothing=smoothing,
                read=read[span], weight=weight, bias=bias, targets=targets[span],
                plain=plain[span], smoothed=smoothed[span], d_read=d_read, d_weight=d_weight, d_bias=d_bias,
            )  # fmt: skip
            call("loss", dtype, arguments)
            sums = [total.add_(each) for total, each in zip(sums, more, strict=True)] if sums else more
        ctx.save_for_backward(d_readout, *sums)
        total_plain = plain.sum()
        ctx.mark_non_differentiable(total_plain)
        return smoothed.sum(), total_plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> Any:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight.mul_(scale), d_bias * scale, None, None, None, None, None

"""The loss over the vocabulary, without ever holding more than a chunk of the tokens x vocabulary matrix."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nmt.model.products import operand

CHUNK = 2048
"""Tokens whose logits exist at one time; it bounds memory and changes no result beyond the order of a sum."""


def smoothed_cross_entropy(
    readout_NE: Tensor, weight_VE: Tensor, bias_V: Tensor, targets_N: Tensor, smoothing: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sums over tokens, in nats: the label-smoothed cross-entropy, and the plain one (which carries no gradient).

    The reference distribution is 1 - smoothing at the target plus smoothing / V everywhere
    (Szegedy et al. 2016, section 7).
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _SmoothedCrossEntropy.apply
    return apply(readout_NE, weight_VE, bias_V, targets_N, smoothing, dtype)


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Computes its gradients going forward, while a chunk's probabilities are at hand; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, readout: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        factor = operand(weight, dtype)
        d_readout, d_weight, d_bias = torch.empty_like(readout), torch.zeros_like(weight), torch.zeros_like(bias)
        smoothed, plain = readout.new_zeros(()), readout.new_zeros(())
        for begin in range(0, len(readout), CHUNK):
            span = slice(begin, begin + CHUNK)
            inputs = operand(readout[span], dtype)
            logits = (inputs @ factor.t()).to(readout.dtype).add_(bias)
            goal = targets[span, None]
            probabilities = torch.softmax(logits, dim=-1)
            # log Z from the largest probability: one fused pass more, where logsumexp takes four.
            total = logits.amax(-1) - probabilities.amax(-1).log()
            nll = (total - logits.gather(-1, goal).squeeze(-1)).sum()
            uniform = (total - logits.mean(-1)).sum()
            plain += nll
            smoothed += (1.0 - smoothing) * nll + smoothing * uniform
            if not ctx.needs_input_grad[0]:
                continue
            gradient = probabilities.sub_(smoothing / len(weight))
            gradient.scatter_add_(-1, goal, gradient.new_full(goal.shape, smoothing - 1.0))
            d_bias += gradient.sum(0)
            gradient = operand(gradient, dtype)
            d_readout[span] = (gradient @ factor).to(readout.dtype)
            d_weight += gradient.t() @ inputs
        ctx.save_for_backward(d_readout, d_weight, d_bias)
        ctx.mark_non_differentiable(plain)
        return smoothed, plain

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> Any:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight * scale, d_bias * scale, None, None, None

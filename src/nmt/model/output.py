"""The loss over the vocabulary, without ever holding more than a chunk of the tokens x vocabulary matrix."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmt.model import compiled
from nmt.model.native import output as native
from nmt.model.products import Factor, operand, product

CHUNK = 2048
"""Tokens whose logits exist at one time; it bounds memory and changes no result beyond the order of a sum."""


def smoothed_cross_entropy(
    readout_NE: Tensor,
    weight_VE: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    smoothing: float,
    dtype: torch.dtype,
    counted_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over tokens, in nats: the label-smoothed cross-entropy, and the plain one (which carries no gradient).

    The reference distribution is 1 - smoothing at the target plus smoothing / V everywhere
    (Szegedy et al. 2016, section 7). Of `counted_N`, those that are false enter no sum; with it nothing that is
    computed depends on what a tensor holds. Without gradients (evaluation), logits are all that is computed.
    """
    # Asked here, since inside a Function autograd is off, and `needs_input_grad` does not know of `no_grad`.
    learning = torch.is_grad_enabled() and any(each.requires_grad for each in (readout_NE, weight_VE, bias_V))
    if counted_N is None and readout_NE.shape[1] % 2 == 0 and compiled.on_cpu(readout_NE):
        return native.smoothed_cross_entropy(
            readout_NE, weight_VE, bias_V, targets_N, smoothing, dtype, CHUNK, learning
        )
    apply: Callable[..., tuple[Tensor, Tensor]] = _SmoothedCrossEntropy.apply
    return apply(readout_NE, weight_VE, bias_V, targets_N, smoothing, dtype, counted_N, learning)


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Computes its gradients going forward, while a chunk's probabilities are at hand; backward only scales them.

    The matrix of tokens x vocabulary is written twice, as logits and as probabilities, both in the products' type. The
    gradient at the logits is p - (1 - smoothing) [v = target] - smoothing / V; its last part is the same everywhere, so
    only its sums over words and over tokens are needed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        readout: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        counted: Tensor | None,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        if counted is not None:
            counts = counted.to(readout.dtype)
            readout = readout * counts[:, None]
        factor = operand(weight, dtype)
        score = Factor(factor, dtype, min(len(readout), CHUNK), bias)
        mean_weight, share = weight.mean(0), smoothing / len(weight)
        d_readout, d_weight, d_bias = torch.empty_like(readout), torch.empty_like(weight), torch.zeros_like(bias)
        smoothed, plain = readout.new_zeros(()), readout.new_zeros(())
        for begin in range(0, len(readout), CHUNK):
            span = slice(begin, begin + CHUNK)
            inputs, goal = operand(readout[span], dtype), targets[span, None]
            logits = score(inputs)
            probabilities = torch.softmax(logits, dim=-1) if learning else None
            nll = _negative_log(None if counted is not None else probabilities, logits, goal, readout.dtype)
            uniform = nll + logits.gather(-1, goal).squeeze(-1) - (readout[span] @ mean_weight + bias.mean())
            if counted is not None:
                nll, uniform = nll * counts[span], uniform * counts[span]
            plain += nll.sum()
            smoothed += (1.0 - smoothing) * nll.sum() + smoothing * uniform.sum()
            if probabilities is None:
                continue
            probabilities[torch.arange(len(goal), device=goal.device), goal.squeeze(-1)] -= 1.0 - smoothing
            gradient = probabilities
            d_readout[span] = product(gradient, factor.t())
            d_readout[span] -= smoothing * mean_weight
            d_chunk = torch.sub(gradient.t() @ inputs, share * readout[span].sum(0), out=None if begin else d_weight)
            if begin:
                d_weight += d_chunk
            ones = inputs.new_ones(1, len(inputs)) if counted is None else operand(counts[None, span], dtype)
            d_bias += (ones @ gradient).squeeze(0)
            d_bias -= share * (len(inputs) if counted is None else counts[span].sum())
        if counted is not None:
            d_readout *= counts[:, None]
        if learning:
            ctx.save_for_backward(d_readout, d_weight, d_bias)
        ctx.mark_non_differentiable(plain)
        return smoothed, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> Any:
        d_readout, d_weight, d_bias = ctx.saved_tensors
        return d_readout * scale, d_weight.mul_(scale), d_bias * scale, None, None, None, None, None


def _negative_log(probabilities: Tensor | None, logits: Tensor, goal: Tensor, dtype: torch.dtype) -> Tensor:
    """-log p of the goals [N]: from their probabilities, and where those are too small for a float from the logits.

    Without probabilities from the logits alone. That takes longer, but is as exact as they are, where a bfloat16
    probability of 0.998 is 1, and asks no tensor for what it holds.
    """
    if probabilities is None:
        return -torch.log_softmax(logits, -1, dtype=dtype).gather(-1, goal).squeeze(-1)
    chosen = probabilities.gather(-1, goal).to(dtype)
    nll = -chosen.squeeze(-1).log()
    lost = (chosen == 0.0).squeeze(-1).nonzero().squeeze(-1)
    if len(lost):
        rows = logits[lost].to(nll.dtype)
        nll[lost] = rows.logsumexp(-1) - rows.gather(-1, goal[lost]).squeeze(-1)
    return nll

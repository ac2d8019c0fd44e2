"""Randomness by key, never from global state.

A number drawn here depends only on its keys, such as (seed, epoch) or (seed, update, sentence): a training that
resumes, one that runs in several processes and one that batches its sentences otherwise all draw the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LOW_32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads consecutive counters (Knuth, TAOCP 3, section 6.4)


def generator(*keys: int) -> np.random.Generator:
    """A counter-based generator for these keys (Philox: Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(keys)))


def _mix(values: Tensor) -> Tensor:
    """A bijection of 32-bit numbers, held in int64, in which each bit depends on all (the "lowbias32" finaliser)."""
    values = ((values ^ (values >> 16)) * 0x7FEB352D) & _LOW_32
    values = ((values ^ (values >> 15)) * 0x846CA68B) & _LOW_32
    return values ^ (values >> 16)


@dataclass(frozen=True)
class WideMask:
    """A dropout mask with a row for each example and as many columns as one likes, drawn where they are asked for."""

    rate: float
    state_B: Tensor

    @classmethod
    def keyed(cls, rate: float, rows_B: Tensor, *keys: int | Tensor) -> "WideMask | None":
        """The mask in which row b depends only on `keys` and rows_B[b]; None at rate 0.

        A key may be a tensor, int64 without dimensions: a recorded graph (graphs.py) reads it anew each time.
        """
        if rate == 0.0:
            return None
        state = rows_B
        for key in keys:
            state = _mix((state + key * _GOLDEN) & _LOW_32)
        return cls(rate, _mix(state))

    def at(self, columns_N: Tensor) -> Tensor:
        """0 or 1 / (1 - rate) at these columns [N], or at those [B, N] of each row: [B, N]."""
        drawn = _mix((self.state_B[:, None] + columns_N * _GOLDEN) & _LOW_32)
        return (drawn >= int(self.rate * 2**32)).to(torch.float32).mul_(1.0 / (1.0 - self.rate))


def dropout_mask(rate: float, width: int, rows_B: Tensor, *keys: int | Tensor) -> Tensor | None:
    """A mask [B, width] of 0 and 1 / (1 - rate) in which row b depends only on `keys` and rows_B[b]; None at rate 0.

    One row serves all time steps of its example (Gal & Ghahramani 2016).
    """
    mask = WideMask.keyed(rate, rows_B, *keys)
    return None if mask is None else mask.at(torch.arange(width, device=rows_B.device))

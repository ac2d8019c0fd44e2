"""Randomness by key, never from global state.

A number drawn here depends only on its keys, such as (seed, epoch) or (seed, update, sentence): a training that
resumes, one that runs in several processes and one that batches its sentences otherwise all draw the same.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

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
        return None if rate == 0.0 else cls(rate, _mix(_keyed(rows_B, *keys)))

    def at(self, columns_N: Tensor) -> Tensor:
        """0 or 1 / (1 - rate) at these columns [N], or at those [B, N] of each row: [B, N]."""
        drawn = _mix((self.state_B[:, None] + columns_N * _GOLDEN) & _LOW_32)
        return (drawn >= int(self.rate * 2**32)).to(torch.float32).mul_(1.0 / (1.0 - self.rate))


def dropout_masks(sites: Sequence[tuple[float, int]], rows_B: Tensor, *keys: int | Tensor) -> list[Tensor | None]:
    """Masks [B, width] of 0 and 1 / (1 - rate), for sites of (rate, width) each; None at rate 0.

    Row b depends only on `keys` and rows_B[b]; the i-th mask is that of `WideMask.keyed` with i as one more key. One
    row serves all time steps of its example (Gal & Ghahramani 2016). All are drawn together: on a GPU, what takes time
    is the number of operations.
    """
    masks: list[Tensor | None] = [None] * len(sites)
    chosen = tuple((place, rate, width) for place, (rate, width) in enumerate(sites) if rate)
    if not chosen:
        return masks
    places_K, which_N, column_N, least_N, scale_N = _columns(chosen, rows_B.device)
    state_BK = _mix(_mix((_keyed(rows_B, *keys)[:, None] + places_K * _GOLDEN) & _LOW_32))
    drawn_BN = _mix((state_BK[:, which_N] + column_N * _GOLDEN) & _LOW_32)
    together_BN = torch.where(drawn_BN >= least_N, scale_N, 0.0)
    begins = [0, *accumulate(width for _, _, width in chosen)]
    for begin, (place, _, width) in zip(begins, chosen, strict=False):
        masks[place] = together_BN[:, begin : begin + width].contiguous()
    return masks


def _keyed(rows_B: Tensor, *keys: int | Tensor) -> Tensor:
    """A state for each row and these keys."""
    state = rows_B
    for key in keys:
        state = _mix((state + key * _GOLDEN) & _LOW_32)
    return state


@functools.cache
def _columns(masks: tuple[tuple[int, float, int], ...], device: torch.device) -> tuple[Tensor, ...]:
    """The masks' places [K]; for each column of all: its mask's row in that, its own place, least draw and scale.

    Made once for good: recorded graphs read them where they lie.
    """
    places = [place for place, _, _ in masks]
    which = [row for row, (_, _, width) in enumerate(masks) for _ in range(width)]
    columns = [column for _, _, width in masks for column in range(width)]
    least = [int(rate * 2**32) for _, rate, width in masks for _ in range(width)]
    scale = [1.0 / (1.0 - rate) for _, rate, width in masks for _ in range(width)]
    whole = (torch.tensor(each, dtype=torch.int64, device=device) for each in (places, which, columns, least))
    return *whole, torch.tensor(scale, dtype=torch.float32, device=device)

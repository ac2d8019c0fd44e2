"""Where the rows of a search stand: several hypotheses of a sentence, of which some may have ended.

The decoder's states and all that depends on them have one row for each running hypothesis, what the encoder wrote one
for each sentence. `Places` maps between the two.

Shape suffixes: A sentences, W places of each, R rows, X whatever a row holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """`width` places for each of so many sentences, and which of them hold a row."""

    sentences: int
    width: int
    filled_R: Tensor | None
    """Each row's place, sentence x width + rank, ascending; None where every place holds a row."""

    @classmethod
    def of(cls, running_AW: Tensor) -> "Places":
        """Those that hold a row where it is true."""
        filled_R = running_AW.flatten().nonzero().squeeze(1)
        sentences, width = running_AW.shape
        return cls(sentences, width, None if len(filled_R) == running_AW.numel() else filled_R)

    @property
    def one_each(self) -> bool:
        """Whether rows and sentences are the same."""
        return self.width == 1 and self.filled_R is None

    def sentence_R(self, device: torch.device) -> Tensor:
        """Each row's sentence."""
        filled_R = torch.arange(self.sentences * self.width, device=device) if self.filled_R is None else self.filled_R
        return filled_R // self.width

    def spread(self, rows_RX: Tensor) -> Tensor:
        """[A, W, X] of rows [R, X]; zero where there is none."""
        whole = rows_RX
        if self.filled_R is not None:
            whole = rows_RX.new_zeros(self.sentences * self.width, rows_RX.shape[1])
            whole.index_copy_(0, self.filled_R, rows_RX)
        return whole.view(self.sentences, self.width, rows_RX.shape[1])

    def collect(self, places_AW: Tensor) -> Tensor:
        """The rows [R, ...] of what is there for every place [A, W, ...]."""
        flat = places_AW.flatten(0, 1)
        return flat if self.filled_R is None else flat.index_select(0, self.filled_R)

    def rows_in(self, filled: Tensor) -> Tensor:
        """The rows in places of which each is filled."""
        if self.filled_R is None:
            return filled
        row_in = filled.new_zeros(self.sentences * self.width)
        row_in[self.filled_R] = torch.arange(len(self.filled_R), device=filled.device)
        return row_in[filled]

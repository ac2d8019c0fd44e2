"""Reads the source sentence."""

import torch
from torch import Tensor, nn

from nmt.model.cells import CELLS
from nmt.model.normalization import Norm
from nmt.model.products import linear
from nmt.model.recurrence import run_sequence


class RecurrentLayer(nn.Module):
    """One recurrent layer, in one or two directions that run side by side.

    The weights lie as in torch.nn.GRU and LSTM, with a first dimension D for the directions.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, directions: int, normalized: bool) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.directions = directions
        gates = self.cell.gates * hidden_size
        self.input_weight = nn.Parameter(torch.empty(directions, gates, input_size))
        self.input_bias = nn.Parameter(torch.empty(directions, gates))
        self.hidden_weight = nn.Parameter(torch.empty(directions, gates, hidden_size))
        self.hidden_bias = nn.Parameter(torch.empty(directions, gates))
        self.normalized = normalized
        if normalized:
            for name in Norm._fields:
                self.register_parameter(name, nn.Parameter(torch.empty(directions, gates)))

    @property
    def norm(self) -> Norm | None:
        """What the cells normalise with, [D, G] each, or nothing."""
        return Norm(*(self.get_parameter(name) for name in Norm._fields)) if self.normalized else None

    def project(self, inputs_TBI: Tensor, dtype: torch.dtype) -> Tensor:
        """All steps' inputs of all directions, as one product: [T, D, B, G]."""
        weight, bias = self.input_weight.flatten(0, 1), self.input_bias.flatten()
        projected_TBG = linear(inputs_TBI, weight, bias, dtype)
        return torch.unflatten(projected_TBG, -1, (self.directions, -1)).transpose(1, 2)

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """A state of zeros."""
        shape = (self.directions, batch, self.hidden_weight.shape[-1])
        return tuple(self.hidden_weight.new_zeros(shape) for _ in range(self.cell.states))

    def run(
        self,
        inputs_TDBG: Tensor,
        start: tuple[Tensor, ...],
        mask_DBH: Tensor | None,
        dtype: torch.dtype,
        mirror_TB: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [T, D, B, H] over projected inputs; the second direction goes by `mirror_TB`."""
        norm = Norm(*(each[:, None] for each in self.norm)) if self.norm else None
        return run_sequence(
            self.cell.name, inputs_TDBG, start, self.hidden_weight, self.hidden_bias, mask_DBH, dtype, norm, mirror_TB
        )


class Encoder(nn.Module):
    """Stacked recurrent layers over the source embeddings.

    The second direction reads each sentence from its own last token, not from the padding's: its input is reversed
    within the sentence's length, so neither direction ever meets padding before a real token, and no mask is needed.
    With `residual`, a layer above the first hands on the sum of its states and its input, before dropout
    (Wu et al. 2016, section 3.1).
    """

    def __init__(
        self,
        cell: str,
        embedding_size: int,
        hidden_size: int,
        layers: int,
        bidirectional: bool,
        normalized: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.directions = 2 if bidirectional else 1
        self.output_size = hidden_size * self.directions
        sizes = [embedding_size] + [self.output_size] * (layers - 1)
        self.layers = nn.ModuleList(
            RecurrentLayer(cell, size, hidden_size, self.directions, normalized) for size in sizes
        )

    def forward(
        self,
        embedded_SBE: Tensor,
        lengths_B: Tensor,
        recurrent_masks: list[Tensor | None],
        output_mask_BC: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Outputs [S, B, C], zero at padding, and the summary [B, C].

        The summary is the forward state after the last real token beside the backward state after the first.
        `recurrent_masks` has one [B, D * H] per layer.
        """
        steps = torch.arange(len(embedded_SBE), device=lengths_B.device)[:, None]
        inside_SB = steps < lengths_B
        mirror_SB = torch.where(inside_SB, lengths_B - 1 - steps, steps)
        given_SBI = embedded_SBE
        for i, (layer, recurrent_mask) in enumerate(zip(self.layers, recurrent_masks, strict=True)):
            inputs_SBI = given_SBI if i == 0 or output_mask_BC is None else given_SBI * output_mask_BC
            hidden_SDBH = self._run(layer, inputs_SBI, mirror_SB, recurrent_mask, dtype)
            states_SBC = hidden_SDBH.transpose(1, 2).flatten(2)
            given_SBI = states_SBC + given_SBI if self.residual and i > 0 else states_SBC
        outputs_SBC = given_SBI * inside_SB[..., None]
        # Both directions end at step length - 1 of their own order; in the outputs the backward one is turned round
        # again.
        sentences = torch.arange(len(lengths_B), device=lengths_B.device)
        half = self.output_size // self.directions
        ends = [outputs_SBC[lengths_B - 1, sentences, :half], outputs_SBC[0, :, half:]]
        return outputs_SBC, torch.cat(ends, dim=-1)

    def _run(
        self, layer: nn.Module, inputs_SBI: Tensor, mirror_SB: Tensor, recurrent_mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """One layer; the second direction reads each sentence from its end."""
        assert isinstance(layer, RecurrentLayer)
        projected_SDBG = layer.project(inputs_SBI, dtype)
        mask_DBH = None
        if recurrent_mask is not None:
            mask_DBH = torch.unflatten(recurrent_mask, -1, (self.directions, -1)).transpose(0, 1)
        mirror = mirror_SB if self.directions == 2 else None
        return layer.run(projected_SDBG, layer.start(inputs_SBI.shape[1]), mask_DBH, dtype, mirror)

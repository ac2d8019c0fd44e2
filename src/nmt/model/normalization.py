"""Layer normalisation inside the recurrent cells (Ba, Kiros & Hinton 2016, eq. 20 to 31, gate by gate).

Both of a cell's projections, of the input and of the state before, are brought to mean 0 and variance 1 over the H
units of each gate, then scaled and shifted by learned numbers. An LSTM's cell state, which the paper normalises on its
way out, stays as it is. `normalize` is the readable form, for prediction;
`make_tape` puts the same before every step of a tape.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nmt.model.cells import CELL_TAPES, Cell, State, Tape

EPSILON = 1e-5


class Norm(NamedTuple):
    """What is learned; each broadcasts against a projection [..., gates x H]."""

    input_gain: Tensor
    input_shift: Tensor
    hidden_gain: Tensor
    hidden_shift: Tensor


def normalize(norm: Norm | None, inputs_G: Tensor, recurrent_G: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two projections normalised over each gate's `size` units; without a norm, as they are."""
    if norm is None:
        return inputs_G, recurrent_G
    inputs, recurrent = (
        functional.layer_norm(torch.unflatten(projection_G, -1, (-1, size)), (size,), eps=EPSILON).flatten(-2)
        for projection_G in (inputs_G, recurrent_G)
    )
    return inputs * norm.input_gain + norm.input_shift, recurrent * norm.hidden_gain + norm.hidden_shift


def make_tape(cell: Cell, like: Tensor, steps: int, norm: Norm | None) -> Tape:
    """A tape for `steps` states of the shape of `like`."""
    tape = CELL_TAPES[cell](like, steps)
    return tape if norm is None else _NormTape(tape, norm)


class _NormTape:
    """A tape whose steps see normalised projections."""

    def __init__(self, tape: Tape, norm: Norm) -> None:
        self._tape = tape
        self.hidden, self.gates = tape.hidden, tape.gates
        self._inputs = _Normalizer(norm.input_gain, norm.input_shift, tape)
        self._recurrent = _Normalizer(norm.hidden_gain, norm.hidden_shift, tape)

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        """Step t."""
        return self._tape.forward(t, self._inputs.forward(inputs_G), self._recurrent.forward(recurrent_G), state)

    def begin_backward(self, d_inputs_TG: Tensor, d_recurrents_TG: Tensor) -> None:
        """Prepare the backward pass; the arguments [T, ..., gates x H] are for the gradients to come."""
        self._tape.begin_backward(
            self._inputs.begin_backward(d_inputs_TG), self._recurrent.begin_backward(d_recurrents_TG)
        )

    def backward(self, t: int, gradient: State) -> State:
        """Write step t's gradients of the two projections, and return the state's before step t."""
        before = self._tape.backward(t, gradient)
        self._inputs.backward(t)
        self._recurrent.backward(t)
        return before

    def gradients(self) -> list[Tensor]:
        """Of what a `Norm` holds, in its order."""
        return [*self._inputs.gradients(), *self._recurrent.gradients()]


class _Normalizer:
    """One projection of all steps."""

    def __init__(self, gain_G: Tensor, shift_G: Tensor, tape: Tape) -> None:
        self._gain, self._shift, self._size = gain_G, shift_G, tape.hidden.shape[-1]
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, projection_G: Tensor) -> Tensor:
        gates = torch.unflatten(projection_G, -1, (-1, self._size))
        normed, mean, scale = torch.native_layer_norm(gates, [self._size], None, None, EPSILON)
        self._seen.append((gates, normed.flatten(-2), mean, scale))
        return torch.addcmul(self._shift, normed.flatten(-2), self._gain)

    def begin_backward(self, d_projections_TG: Tensor) -> Tensor:
        """Where the gradients of the normalised projections are to be written."""
        self._d_projections = d_projections_TG
        self._d_results = torch.empty_like(d_projections_TG, memory_format=torch.contiguous_format)
        return self._d_results

    def backward(self, t: int) -> None:
        gates, _, mean, scale = self._seen[t]
        d_normed = torch.unflatten(self._d_results[t] * self._gain, -1, (-1, self._size))
        d_gates, _, _ = torch.ops.aten.native_layer_norm_backward(
            d_normed, gates, [self._size], mean, scale, None, None, [True, False, False]
        )
        self._d_projections[t] = d_gates.flatten(-2)

    def gradients(self) -> tuple[Tensor, Tensor]:
        normed = torch.stack([normed for _, normed, _, _ in self._seen])
        return (
            (self._d_results * normed).sum_to_size(self._gain.shape),
            self._d_results.sum_to_size(self._shift.shape),
        )

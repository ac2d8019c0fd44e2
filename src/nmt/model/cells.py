"""A GRU and an LSTM: one step, and what a whole sequence's steps leave for the backward pass.

The arithmetic and the order of the gates are those of torch.nn.GRU and torch.nn.LSTM, from gate inputs that are already
projected; products with weights happen outside, where they can be batched. Any shape [..., H] will do.

`step` is the readable form, for prediction. A `Tape` does the same for the t-th step of a sequence, into buffers that
hold all steps. The gradient of a cell is linear in the gradient that comes in, so the tape computes the factors of all
steps in a few large operations (`begin_backward`), and a step back is little more than one product with them.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Cell(NamedTuple):
    """How many gates a cell has and how many tensors its state."""

    name: str
    gates: int
    states: int


GRU = Cell("gru", gates=3, states=1)
LSTM = Cell("lstm", gates=4, states=2)
CELLS = {cell.name: cell for cell in (GRU, LSTM)}

State = tuple[Tensor, ...]
"""(hidden,) of a GRU, (hidden, cell state) of an LSTM: each [..., H], float32."""


def step(cell: Cell, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
    """The next state; `inputs_G` and `recurrent_G` [..., gates x H] are the two projections, biases included."""
    if cell == GRU:
        return (_gru_step(inputs_G, recurrent_G, state[0]),)
    return _lstm_step(inputs_G + recurrent_G, state)


def _gru_step(inputs_G: Tensor, recurrent_G: Tensor, hidden: Tensor) -> Tensor:
    """Cho et al. 2014, with the reset gate after the product, as cuDNN has it."""
    size = hidden.shape[-1]
    gates = torch.sigmoid(inputs_G[..., : 2 * size] + recurrent_G[..., : 2 * size])
    reset, update = gates[..., :size], gates[..., size:]
    candidate = torch.tanh(torch.addcmul(inputs_G[..., 2 * size :], reset, recurrent_G[..., 2 * size :]))
    return torch.addcmul(candidate, update, hidden - candidate)


def _lstm_step(gates_G: Tensor, state: State) -> State:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    hidden, cell_state = state
    size = hidden.shape[-1]
    input_gate, forget_gate, output_gate = (torch.sigmoid(gates_G[..., i * size : (i + 1) * size]) for i in (0, 1, 3))
    candidate = torch.tanh(gates_G[..., 2 * size : 3 * size])
    new_cell_state = forget_gate * cell_state + input_gate * candidate
    return output_gate * torch.tanh(new_cell_state), new_cell_state


class Tape(Protocol):
    """The steps of one sequence. T steps, H units, `...` what is computed side by side."""

    hidden: Tensor
    """[T, ..., H] after each step."""
    gates: int
    """The width of a projection: gates x H."""

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        """Step t."""

    def begin_backward(self, d_inputs_TG: Tensor, d_recurrents_TG: Tensor) -> None:
        """Prepare the factors of all steps; the arguments [T, ..., gates x H] are for the gradients to come."""

    def backward(self, t: int, gradient: State) -> State:
        """Write step t's gradients of the two projections, and return the state's before step t.

        What reaches that state through the recurrent product is not among it: the caller computes and adds it.
        """

    def gradients(self) -> list[Tensor]:
        """Of what is learned within the steps, when all went back."""


class _GruTape:
    def __init__(self, like: Tensor, steps: int) -> None:
        size = like.shape[-1]
        self._gates, self._candidate, self._recurrent, self._difference, self.hidden = (
            like.new_empty(steps, *like.shape[:-1], width) for width in (2 * size, size, size, size, size)
        )
        self.gates = 3 * size
        reset, update = self._gates.chunk(2, dim=-1)
        self._rows = by_step(
            self._gates, reset, update, self._candidate, self._recurrent, self._difference, self.hidden
        )

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        gates, reset, update, candidate, recurrent, difference, hidden = self._rows[t]
        sizes = [gates.shape[-1], hidden.shape[-1]]
        inputs_gates, inputs_candidate = inputs_G.split_with_sizes(sizes, dim=-1)
        recurrent_gates, recurrent_candidate = recurrent_G.split_with_sizes(sizes, dim=-1)
        torch.add(inputs_gates, recurrent_gates, out=gates).sigmoid_()
        recurrent.copy_(recurrent_candidate)
        torch.addcmul(inputs_candidate, reset, recurrent, out=candidate).tanh_()
        torch.sub(state[0], candidate, out=difference)
        torch.addcmul(candidate, update, difference, out=hidden)
        return (hidden,)

    def begin_backward(self, d_inputs_TG: Tensor, d_recurrents_TG: Tensor) -> None:
        size = self.hidden.shape[-1]
        reset, update = self._gates[..., :size], self._gates[..., size:]
        slopes = self.hidden.new_empty(*self.hidden.shape[:-1], 3, size)
        to_reset, to_update, to_candidate = slopes.unbind(-2)
        keep = 1.0 - update
        torch.mul(keep, 1.0 - self._candidate * self._candidate, out=to_candidate)
        torch.mul(self._difference, update * keep, out=to_update)
        to_recurrent = to_candidate * reset
        torch.mul(self._recurrent, to_recurrent * (1.0 - reset), out=to_reset)
        self._backward_rows = by_step(
            slopes, to_recurrent, update, torch.unflatten(d_inputs_TG, -1, (3, size)),
            d_inputs_TG[..., : 2 * size], d_recurrents_TG[..., : 2 * size], d_recurrents_TG[..., 2 * size :],
        )  # fmt: skip

    def backward(self, t: int, gradient: State) -> State:
        slopes, to_recurrent, update, d_inputs, d_gates, d_recurrent_gates, d_recurrent = self._backward_rows[t]
        (d_hidden,) = gradient
        torch.mul(d_hidden.unsqueeze(-2), slopes, out=d_inputs)
        d_recurrent_gates.copy_(d_gates)
        torch.mul(d_hidden, to_recurrent, out=d_recurrent)
        return (d_hidden * update,)

    def gradients(self) -> list[Tensor]:
        return []


class _LstmTape:
    def __init__(self, like: Tensor, steps: int) -> None:
        size = like.shape[-1]
        self._gates, self._squashed, self._before, self.hidden, self._cell_state = (
            like.new_empty(steps, *like.shape[:-1], width) for width in (4 * size, size, size, size, size)
        )
        self.gates = 4 * size
        self._rows = by_step(self._gates, self._squashed, self._before, self.hidden, self._cell_state)

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        gates, squashed, before, hidden, cell_state = self._rows[t]
        torch.add(inputs_G, recurrent_G, out=gates)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
        gates[..., : 2 * hidden.shape[-1]].sigmoid_(), candidate.tanh_(), output_gate.sigmoid_()
        before.copy_(state[1])
        torch.mul(forget_gate, before, out=cell_state).addcmul_(input_gate, candidate)
        torch.mul(output_gate, torch.tanh(cell_state, out=squashed), out=hidden)
        return hidden, cell_state

    def begin_backward(self, d_inputs_TG: Tensor, d_recurrents_TG: Tensor) -> None:
        input_gate, forget_gate, candidate, output_gate = self._gates.chunk(4, dim=-1)
        squashed, size = self._squashed, self.hidden.shape[-1]
        slopes = torch.empty_like(self._gates)
        to_input_gate, to_forget_gate, to_candidate, to_output_gate = slopes.chunk(4, dim=-1)
        torch.mul(candidate, input_gate * (1.0 - input_gate), out=to_input_gate)
        torch.mul(self._before, forget_gate * (1.0 - forget_gate), out=to_forget_gate)
        torch.mul(input_gate, 1.0 - candidate * candidate, out=to_candidate)
        torch.mul(squashed, output_gate * (1.0 - output_gate), out=to_output_gate)
        to_cell_state = output_gate * (1.0 - squashed * squashed)
        by_cell_state, d_by_cell_state = (
            torch.unflatten(each[..., : 3 * size], -1, (3, size)) for each in (slopes, d_inputs_TG)
        )
        self._backward_rows = by_step(
            by_cell_state,
            to_output_gate,
            to_cell_state,
            forget_gate,
            d_by_cell_state,
            d_inputs_TG[..., 3 * size :],
            d_inputs_TG,
            d_recurrents_TG,
        )

    def backward(self, t: int, gradient: State) -> State:
        (
            by_cell_state,
            to_output_gate,
            to_cell_state,
            forget_gate,
            d_by_cell_state,
            d_output_gate,
            d_inputs,
            d_recurrent,
        ) = self._backward_rows[t]
        d_hidden, d_cell_state = gradient
        d_cell_state = torch.addcmul(d_cell_state, d_hidden, to_cell_state)
        torch.mul(d_cell_state.unsqueeze(-2), by_cell_state, out=d_by_cell_state)
        torch.mul(d_hidden, to_output_gate, out=d_output_gate)
        d_recurrent.copy_(d_inputs)
        return torch.zeros_like(d_hidden), d_cell_state * forget_gate

    def gradients(self) -> list[Tensor]:
        return []


CELL_TAPES: dict[Cell, Callable[[Tensor, int], Tape]] = {GRU: _GruTape, LSTM: _LstmTape}
"""A tape for so many states of the shape of a tensor."""


def by_step(*buffers: Tensor) -> list[tuple[Tensor, ...]]:
    """For each of T steps, its view of every buffer [T, ...]; one `unbind` costs a fifth of T indexings."""
    return list(zip(*(buffer.unbind(0) for buffer in buffers), strict=True))

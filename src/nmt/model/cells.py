"""A GRU and an LSTM: one step, and what a whole sequence's steps leave for the way back.

The arithmetic and the order of the gates are those of torch.nn.GRU and torch.nn.LSTM, from gate inputs that are already
projected; products with weights happen outside, where they can be batched. Any shape [..., H] will do.

`step` is the readable form, for prediction. A `Tape` does the same for the t-th step of a sequence, into buffers that
hold all steps. The gradient of a cell is linear in the gradient that comes in, so the tape computes the factors of all
steps in a few large operations (`rewind`), and a step back is little more than one product with them.
"""

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
"""(hidden,) of a GRU, (hidden, memory) of an LSTM: each [..., H], float32."""


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
    hidden, memory = state
    size = hidden.shape[-1]
    inside, forget, out = (torch.sigmoid(gates_G[..., i * size : (i + 1) * size]) for i in (0, 1, 3))
    candidate = torch.tanh(gates_G[..., 2 * size : 3 * size])
    new_memory = forget * memory + inside * candidate
    return out * torch.tanh(new_memory), new_memory


class Tape(Protocol):
    """The steps of one sequence. T steps, H units, `...` what is computed side by side."""

    hidden: Tensor
    """[T, ..., H] after each step."""
    states: State
    """`hidden` and, of an LSTM, the memories."""
    gates: int
    """How many numbers the gates of one state read."""

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        """Step t."""

    def rewind(self) -> None:
        """Prepare the factors of all steps."""

    def backward(self, t: int, gradient: State, d_inputs_G: Tensor, d_recurrent_G: Tensor) -> State:
        """Write step t's gradients of the two projections, return those of the state before, `recurrent_G` apart."""


def make_tape(cell: Cell, like: Tensor, steps: int) -> Tape:
    """A tape for `steps` states of the shape of `like`."""
    return (_GruTape if cell == GRU else _LstmTape)(like, steps)


class _GruTape:
    def __init__(self, like: Tensor, steps: int) -> None:
        size = like.shape[-1]
        self._gates, self._candidate, self._recurrent, self._difference, self.hidden = (
            like.new_empty(steps, *like.shape[:-1], width) for width in (2 * size, size, size, size, size)
        )
        self.states: State = (self.hidden,)
        self.gates = 3 * size
        self._rows = list(zip(
            self._gates.unbind(0), self._candidate.unbind(0), self._recurrent.unbind(0), self._difference.unbind(0),
            self.hidden.unbind(0), strict=True,
        ))  # fmt: skip

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        gates, candidate, recurrent, difference, hidden = self._rows[t]
        size = hidden.shape[-1]
        torch.add(inputs_G[..., : 2 * size], recurrent_G[..., : 2 * size], out=gates).sigmoid_()
        recurrent.copy_(recurrent_G[..., 2 * size :])
        torch.addcmul(inputs_G[..., 2 * size :], gates[..., :size], recurrent, out=candidate).tanh_()
        torch.sub(state[0], candidate, out=difference)
        torch.addcmul(candidate, gates[..., size:], difference, out=hidden)
        return (hidden,)

    def rewind(self) -> None:
        size = self.hidden.shape[-1]
        reset, update = self._gates[..., :size], self._gates[..., size:]
        slopes = self.hidden.new_empty(*self.hidden.shape[:-1], 3, size)
        to_reset, to_update, to_candidate = slopes.unbind(-2)
        keep = 1.0 - update
        torch.mul(keep, 1.0 - self._candidate * self._candidate, out=to_candidate)
        torch.mul(self._difference, update * keep, out=to_update)
        to_recurrent = to_candidate * reset
        torch.mul(self._recurrent, to_recurrent * (1.0 - reset), out=to_reset)
        self._slopes = list(zip(slopes.unbind(0), to_recurrent.unbind(0), update.unbind(0), strict=True))

    def backward(self, t: int, gradient: State, d_inputs_G: Tensor, d_recurrent_G: Tensor) -> State:
        slopes, to_recurrent, update = self._slopes[t]
        (d_hidden,), size = gradient, update.shape[-1]
        torch.mul(d_hidden[..., None, :], slopes, out=torch.unflatten(d_inputs_G, -1, (3, size)))
        d_recurrent_G[..., : 2 * size] = d_inputs_G[..., : 2 * size]
        torch.mul(d_hidden, to_recurrent, out=d_recurrent_G[..., 2 * size :])
        return (d_hidden * update,)


class _LstmTape:
    def __init__(self, like: Tensor, steps: int) -> None:
        size = like.shape[-1]
        self._gates, self._squashed, self._before, self.hidden, self.memory = (
            like.new_empty(steps, *like.shape[:-1], width) for width in (4 * size, size, size, size, size)
        )
        self.states: State = (self.hidden, self.memory)
        self.gates = 4 * size
        self._rows = list(zip(
            self._gates.unbind(0), self._squashed.unbind(0), self._before.unbind(0),
            self.hidden.unbind(0), self.memory.unbind(0), strict=True,
        ))  # fmt: skip

    def forward(self, t: int, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> State:
        gates, squashed, before, hidden, memory = self._rows[t]
        torch.add(inputs_G, recurrent_G, out=gates)
        inside, forget, candidate, out = gates.chunk(4, dim=-1)
        gates[..., : 2 * hidden.shape[-1]].sigmoid_(), candidate.tanh_(), out.sigmoid_()
        before.copy_(state[1])
        torch.mul(forget, before, out=memory).addcmul_(inside, candidate)
        torch.mul(out, torch.tanh(memory, out=squashed), out=hidden)
        return hidden, memory

    def rewind(self) -> None:
        inside, forget, candidate, out = self._gates.chunk(4, dim=-1)
        squashed, size = self._squashed, self.hidden.shape[-1]
        slopes = torch.empty_like(self._gates)
        to_inside, to_forget, to_candidate, to_out = slopes.chunk(4, dim=-1)
        torch.mul(candidate, inside * (1.0 - inside), out=to_inside)
        torch.mul(self._before, forget * (1.0 - forget), out=to_forget)
        torch.mul(inside, 1.0 - candidate * candidate, out=to_candidate)
        torch.mul(squashed, out * (1.0 - out), out=to_out)
        to_memory = out * (1.0 - squashed * squashed)
        by_memory = torch.unflatten(slopes[..., : 3 * size], -1, (3, size))
        self._slopes = list(zip(
            by_memory.unbind(0), to_out.unbind(0), to_memory.unbind(0), forget.unbind(0), strict=True
        ))  # fmt: skip

    def backward(self, t: int, gradient: State, d_inputs_G: Tensor, d_recurrent_G: Tensor) -> State:
        by_memory, to_out, to_memory, forget = self._slopes[t]
        d_hidden, d_memory = gradient
        size = forget.shape[-1]
        d_memory = torch.addcmul(d_memory, d_hidden, to_memory)
        torch.mul(d_memory[..., None, :], by_memory, out=torch.unflatten(d_inputs_G[..., : 3 * size], -1, (3, size)))
        torch.mul(d_hidden, to_out, out=d_inputs_G[..., 3 * size :])
        d_recurrent_G.copy_(d_inputs_G)
        return torch.zeros_like(d_hidden), d_memory * forget

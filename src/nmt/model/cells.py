"""One step of a GRU and of an LSTM, forward and backward, from gate inputs that are already projected.

The arithmetic and the order of the gates are those of torch.nn.GRU and torch.nn.LSTM. Any leading shape will do. What
`backward` needs is what `forward` returns as `saved`; products with weights happen outside, where they can be batched.
"""

from typing import NamedTuple

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


def cell_forward(cell: Cell, inputs_G: Tensor, recurrent_G: Tensor, state: State) -> tuple[State, State]:
    """The next state and what backward needs.

    `inputs_G` and `recurrent_G` [..., G] are the two projections, biases included.
    """
    return (
        _gru_forward(inputs_G, recurrent_G, state[0]) if cell == GRU else _lstm_forward(inputs_G + recurrent_G, state)
    )


def cell_backward(cell: Cell, gradient: State, saved: State) -> tuple[Tensor, Tensor, State]:
    """Gradients of `inputs_G`, of `recurrent_G`, and of the previous state (without the way through `recurrent_G`)."""
    return _gru_backward(gradient[0], saved) if cell == GRU else _lstm_backward(gradient, saved)


def _gru_forward(inputs_G: Tensor, recurrent_G: Tensor, hidden: Tensor) -> tuple[State, State]:
    """Cho et al. 2014, with the reset gate after the product, as cuDNN has it."""
    size = hidden.shape[-1]
    gates = torch.sigmoid(inputs_G[..., : 2 * size] + recurrent_G[..., : 2 * size])
    reset, update = gates[..., :size], gates[..., size:]
    recurrent_candidate = recurrent_G[..., 2 * size :]
    candidate = torch.tanh(torch.addcmul(inputs_G[..., 2 * size :], reset, recurrent_candidate))
    difference = hidden - candidate
    new = torch.addcmul(candidate, update, difference)
    return (new,), (gates, candidate, recurrent_candidate, difference)


def _gru_backward(gradient: Tensor, saved: State) -> tuple[Tensor, Tensor, State]:
    gates, candidate, recurrent_candidate, difference = saved
    size = candidate.shape[-1]
    reset, update = gates[..., :size], gates[..., size:]
    d_candidate = (gradient - gradient * update) * (1.0 - candidate * candidate)
    d_gates = torch.cat([d_candidate * recurrent_candidate, gradient * difference], dim=-1) * (gates - gates * gates)
    d_inputs = torch.cat([d_gates, d_candidate], dim=-1)
    d_recurrent = torch.cat([d_gates, d_candidate * reset], dim=-1)
    return d_inputs, d_recurrent, (gradient * update,)


def _lstm_forward(gates_G: Tensor, state: State) -> tuple[State, State]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000."""
    hidden, memory = state
    size = hidden.shape[-1]
    in_forget = torch.sigmoid(gates_G[..., : 2 * size])
    candidate = torch.tanh(gates_G[..., 2 * size : 3 * size])
    out = torch.sigmoid(gates_G[..., 3 * size :])
    new_memory = in_forget[..., size:] * memory + in_forget[..., :size] * candidate
    squashed = torch.tanh(new_memory)
    return (out * squashed, new_memory), (in_forget, candidate, out, squashed, memory)


def _lstm_backward(gradient: State, saved: State) -> tuple[Tensor, Tensor, State]:
    d_hidden, d_memory = gradient
    in_forget, candidate, out, squashed, memory = saved
    size = candidate.shape[-1]
    d_memory = d_memory + d_hidden * out * (1.0 - squashed * squashed)
    d_in_forget = torch.cat([d_memory * candidate, d_memory * memory], dim=-1) * (in_forget - in_forget * in_forget)
    d_candidate = d_memory * in_forget[..., :size] * (1.0 - candidate * candidate)
    d_out = d_hidden * squashed * (out - out * out)
    d_gates = torch.cat([d_in_forget, d_candidate, d_out], dim=-1)
    return d_gates, d_gates, (torch.zeros_like(d_hidden), d_memory * in_forget[..., size:])

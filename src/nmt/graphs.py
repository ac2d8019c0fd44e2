"""Updates by CUDA graphs: an update's hundreds of small operations, recorded once, are launched as two or three.

A graph repeats what was recorded, on the same memory. So batches are padded to one of a few shapes, each with a graph
of its own, and what differs between two updates (the pieces, whose masks they get, the count of tokens) is written into
tensors that the graph reads. No two graphs run at the same time, so they share one pool of memory. What follows the
gradients (clipping, optimizer, average) has one shape and one graph.

Without CUDA nothing can be recorded: the same operations on the same tensors are then carried out each time, which is
what the tests do.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmt.batching import Batch
from nmt.model.seq2seq import Seq2Seq

_FINEST = 4
"""Positions: with fewer between two shapes, more time goes into recording graphs than into padding."""


class Shape(NamedTuple):
    """The padded size of a batch."""

    sentences: int
    source: int
    target: int


def shape_of(batch: Batch) -> Shape:
    """The size that a batch has."""
    return Shape(len(batch.rows), batch.source_BS.shape[1], batch.inputs_BT.shape[1])


def fixed_shape(batch: Batch) -> Shape:
    """The smallest of the shapes that have graphs into which a batch fits."""
    return Shape(*map(_rounded_up, shape_of(batch)))


def _rounded_up(size: int) -> int:
    """Up to a multiple of _FINEST, or of the largest power of two within an eighth of it: less than an eighth more."""
    step = max(_FINEST, 1 << max(0, (size // 8).bit_length() - 1))
    return -(-size // step) * step


def in_fixed_shape(batch: Batch) -> Batch:
    """The batch, filled up to its shape."""
    return batch if batch.fixed else batch.padded_to(*fixed_shape(batch))


class Recorder:
    """Adds batches' gradients to those of a model's parameters, whose memory must stay the same for each `place`."""

    def __init__(self, model: Seq2Seq, smoothing: float, seed: int) -> None:
        self._model, self._smoothing, self._seed = model, smoothing, seed
        self._graphs: dict[tuple[int, Shape], _Graph] = {}
        self.pool: Any = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    def add_gradients(self, batch: Batch, tokens: int, update: int, place: int) -> Tensor:
        """Those of the batch's smoothed loss / `tokens`, under the masks of `update`; returns its plain loss, summed.

        `place` names the memory of the gradients. The returned tensor is overwritten by the next call.
        """
        padded = in_fixed_shape(batch)
        shape = shape_of(padded)
        graph = self._graphs.get((place, shape))
        if graph is None:
            graph = self._graphs[place, shape] = _Graph(self._model, self._smoothing, self._seed, padded, self.pool)
        return graph.run(padded, tokens, update)


class _Graph:
    """The work on batches of one shape."""

    def __init__(self, model: Seq2Seq, smoothing: float, seed: int, batch: Batch, pool: Any) -> None:
        self._model, self._smoothing, self._seed = model, smoothing, seed
        device = model.device
        self._batch = batch.copy_to(device)
        self._update = torch.zeros((), dtype=torch.int64, device=device)
        self._tokens, self._plain = torch.ones((), device=device), torch.zeros((), device=device)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self._replay = recorded(self._work, gradients, device, pool)

    def _work(self) -> None:
        masks = self._model.masks(self._batch.rows, self._seed, self._update)
        loss = self._model.loss(self._batch, self._smoothing, masks)
        (loss.smoothed / self._tokens).backward()  # type: ignore[no-untyped-call]
        self._plain.copy_(loss.plain)

    def run(self, batch: Batch, tokens: int, update: int) -> Tensor:
        for own, given in zip(self._batch.tensors, batch.tensors, strict=True):
            own.copy_(given, non_blocking=True)
        self._update.fill_(update)
        self._tokens.fill_(tokens)
        self._replay()
        return self._plain


class RecordedStep:
    """Clips the gradients, takes the optimizer's step and moves the average after the weights.

    `rate` is what the optimizer reads its learning rate from. The gradients must stay where they were at the first
    call.
    """

    def __init__(
        self,
        model: Seq2Seq,
        averaged: Seq2Seq,
        optimizer: torch.optim.Optimizer,
        clip_norm: float,
        rate: Tensor,
        pool: Any,
    ) -> None:
        self._weights: list[Tensor] = list(model.parameters())
        self._averages: list[Tensor] = list(averaged.parameters())
        self._optimizer, self._clip_norm, self._rate, self._pool = optimizer, clip_norm, rate, pool
        self._share = torch.zeros_like(rate)
        self._norm = torch.zeros((), device=model.device)
        self._replay: Callable[[], None] | None = None

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The gradients' norm before they are clipped; to be asked for before each `run`."""
        self._norm.copy_(nn.utils.get_total_norm(self._gradients()))
        return self._norm

    def run(self, rate: float, share: float) -> None:
        """With this learning rate; the average goes this share of its way to the weights."""
        self._rate.fill_(rate)
        self._share.fill_(share)
        if self._replay is None:
            self._replay = self._recorded()
        self._replay()

    @torch.no_grad()
    def _work(self) -> None:
        nn.utils.clip_grads_with_norm_(self._weights, self._clip_norm, self._norm)
        self._optimizer.step()
        ways = torch._foreach_sub(self._weights, self._averages)
        torch._foreach_mul_(ways, self._share)
        torch._foreach_add_(self._averages, ways)

    def _recorded(self) -> Callable[[], None]:
        first = not self._moments()
        changed = [*self._gradients(), *self._weights, *self._averages, *self._moments()]
        replay = recorded(self._work, changed, self._norm.device, self._pool)
        if first:  # the optimizer has begun to count while that was recorded
            for moment in self._moments():
                moment.zero_()
        return replay

    def forget(self) -> None:
        """Record anew at the next `run`: the optimizer's moments have come to lie elsewhere."""
        self._replay = None

    def _gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self._weights if weight.grad is not None]

    def _moments(self) -> list[Tensor]:
        return [tensor for state in self._optimizer.state.values() for tensor in state.values()]


def recorded(
    work: Callable[[], None], changed: Sequence[Tensor], device: torch.device, pool: Any = None
) -> Callable[[], None]:
    """`work` as a graph, which leaves the tensors that it changes as they are while it is recorded.

    It is carried out once before: libraries then have what they allocate at first use. Without CUDA it is carried out
    once, too, and what is returned is the work itself.
    """
    kept = [tensor.detach().clone() for tensor in changed]
    replay = _captured(work, pool) if device.type == "cuda" else _tried(work)
    for tensor, before in zip(changed, kept, strict=True):
        tensor.detach().copy_(before)
    return replay


def _tried(work: Callable[[], None]) -> Callable[[], None]:
    work()
    return work


@functools.cache
def _side_stream(_: int) -> torch.cuda.Stream:
    """One for all recordings on a GPU: libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


def _captured(work: Callable[[], None], pool: Any) -> Callable[[], None]:
    side = _side_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph.replay

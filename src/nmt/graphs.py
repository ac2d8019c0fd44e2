"""Gradients by CUDA graphs: an update's thousands of small operations, recorded once, are launched as one.

A graph repeats what was recorded, on the same memory. So batches are padded to one of a few shapes, each with a graph
of its own, and what differs between two updates (the pieces, whose masks they get, the count of tokens) is written into
tensors that the graph reads. No two graphs run at the same time, so they share one pool of memory.

Without CUDA nothing can be recorded: the same operations on the same tensors are then carried out each time, which is
what the tests do.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nmt.batching import Batch
from nmt.model.seq2seq import Seq2Seq

_FINEST = 4
"""Positions: with fewer between two shapes, more time goes into recording graphs than into padding."""


class Shape(NamedTuple):
    """Of a batch."""

    sentences: int
    source: int
    target: int


def fixed_shape(batch: Batch) -> Shape:
    """The smallest of the shapes that have graphs into which a batch fits."""
    sizes = (len(batch.rows), batch.source_BS.shape[1], batch.inputs_BT.shape[1])
    return Shape(*map(_rounded_up, sizes))


def _rounded_up(size: int) -> int:
    """To a multiple of _FINEST, or of the largest power of two that is at most an eighth of it: an eighth more then."""
    step = max(_FINEST, 1 << max(0, (size // 8).bit_length() - 1))
    return -(-size // step) * step


class Recorder:
    """Adds batches' gradients to those of a model's parameters, whose memory must stay the same for each `place`."""

    def __init__(self, model: Seq2Seq, smoothing: float, seed: int) -> None:
        self._model, self._smoothing, self._seed = model, smoothing, seed
        self._graphs: dict[tuple[int, Shape], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    def add_gradients(self, batch: Batch, tokens: int, update: int, place: int) -> Tensor:
        """Those of the batch's smoothed loss / `tokens`, under the masks of `update`; returns its plain loss, summed.

        `place` names the memory of the gradients. The returned tensor is overwritten by the next call.
        """
        shape = fixed_shape(batch)
        padded = batch.padded_to(*shape)
        graph = self._graphs.get((place, shape))
        if graph is None:
            graph = self._graphs[place, shape] = _Graph(self._model, self._smoothing, self._seed, padded, self._pool)
        return graph.run(padded, tokens, update)


class _Graph:
    """The work on batches of one shape."""

    def __init__(self, model: Seq2Seq, smoothing: float, seed: int, batch: Batch, pool: Any) -> None:
        self._model, self._smoothing, self._seed = model, smoothing, seed
        device = model.device
        self._batch = batch.copy_to(device)
        self._update = torch.zeros((), dtype=torch.int64, device=device)
        self._tokens, self._plain = torch.ones((), device=device), torch.zeros((), device=device)
        self._replay: Callable[[], None] = self._work
        if device.type == "cuda":
            self._replay = recorded(self._work, list(model.parameters()), pool)

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


def recorded(work: Callable[[], None], parameters: Sequence[nn.Parameter], pool: Any = None) -> Callable[[], None]:
    """`work` as a graph, which leaves the parameters' gradients as they are while it is recorded.

    It is carried out once before: libraries then have what they allocate at first use.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kept = [gradient.clone() for gradient in gradients]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    for gradient, before in zip(gradients, kept, strict=True):
        gradient.copy_(before)
    return graph.replay

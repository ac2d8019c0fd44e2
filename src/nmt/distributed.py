"""Several processes train one model: which part of a batch is whose, and how their sums become one.

A batch is cut into as many shares as `train.devices`, a process works on one share or takes several in turn, and what
they add up to is added in the order of the shares, never in that in which messages come. So a result depends on the
number of shares, and not on how many processes there are to work on them: one process gives the bytes of eight.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nmt.checkpoint import Checkpoint
from nmt.errors import UserError

PATIENCE = timedelta(minutes=10)
"""The longest that a process waits for another's part of an update."""
_PROGRESS = "progress"


class Lost(Exception):
    """Another process of the team has ended, or cannot be reached."""


class Team:
    """The processes that train one model, seen by one of them; one alone is a team, too, and sends nothing."""

    def __init__(self, shares: int, rank: int = 0, size: int = 1) -> None:
        if size > shares:
            raise UserError(f"{size} processes cannot work on {shares} shares of a batch: raise train.devices")
        self.shares, self.rank, self.size = shares, rank, size
        self._bounds = [shares * place // size for place in range(size + 1)]
        self.own = range(self._bounds[rank], self._bounds[rank + 1])
        """The shares of this process."""

    @property
    def leads(self) -> bool:
        """Whether this process writes: files, curves, words for people."""
        return self.rank == 0

    def cut(self, examples: np.ndarray, micro_batches: int) -> list[list[np.ndarray]]:
        """This process's shares of a batch [B, K], in at most so many micro-batches; of a small batch some are empty.

        The examples of a batch are sorted by length. Dealt out like cards they make shares of the same widths, and of
        as many examples but for one: no process waits long for another, and each has work where there is enough.
        """
        dealt = [examples[share :: self.shares] for share in self.own]
        counts = [min(micro_batches, len(share)) for share in dealt]
        return [[share[i::micro_batches] for i in range(count)] for share, count in zip(dealt, counts, strict=True)]

    def add(self, own: Tensor) -> Tensor:
        """The sum [N] of the rows of all shares, of which these [own shares, N] are one's own; the same everywhere.

        Each process adds up an equal slice of everyone's rows and hands it round: as many bytes on the way as a ring
        sends, but in one order of adding, which a ring does not keep. N is a multiple of the team's size.
        """
        if self.size == 1:
            return _in_order(own)
        width = own.shape[1] // self.size
        rows = own.new_empty(self.shares, width)
        slices = own.view(len(own), self.size, width).transpose(0, 1).contiguous()
        theirs = [(end - begin) * width for begin, end in pairwise(self._bounds)]
        with _reaching_all():
            dist.all_to_all_single(rows.view(-1), slices.view(-1), theirs, [len(own) * width] * self.size)
        return self.gather(_in_order(rows)).view(-1)

    def gather(self, row: Tensor) -> Tensor:
        """Everyone's row [N]: [size, N]."""
        rows = row.new_empty(self.size, len(row))
        with _reaching_all():
            dist.all_gather(list(rows.unbind()), row)
        return rows

    def largest(self, number: int) -> int:
        """The largest of everyone's numbers."""
        tensor = torch.tensor([number])
        if self.size > 1:
            with _reaching_all():
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def outlive_leader(self) -> None:
        """Wait until the leader has ended: a follower that fails before would take it down before it can say why."""
        with contextlib.suppress(Lost):
            self.largest(0)

    def agrees(self, number: int) -> bool:
        """Whether everyone has this number (below 2**63)."""
        return -self.largest(-number) == self.largest(number)

    def collect(self, numbers: Mapping[int, float], count: int) -> list[float]:
        """All of `count` numbers, each known by its place to one process."""
        tensor = torch.zeros(count, dtype=torch.float64)
        for place, number in numbers.items():
            tensor[place] = number
        if self.size > 1:
            with _reaching_all():
                dist.all_reduce(tensor)  # in each place one number and zeros: no order matters
        return tensor.tolist()

    def share(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """The leader's checkpoint, or that there is none, for all: others may not see its disk."""
        if self.size == 1:
            return checkpoint
        content = _packed(checkpoint) if self.leads and checkpoint else bytearray()
        size = self.largest(len(content))
        if not size:
            return None
        tensor = torch.frombuffer(content or bytearray(size), dtype=torch.uint8)
        with _reaching_all():
            dist.broadcast(tensor, 0)
        return _unpacked(tensor.numpy().tobytes())

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse to go on where one of these float32 tensors is not the same everywhere, by a checksum of its bits."""
        if self.size == 1:
            return
        digests = [_checksum(tensor.detach().view(torch.int32).flatten()) for tensor in tensors.values()]
        rows = self.gather(torch.stack(digests))
        for name, same in zip(tensors, (rows == rows[0]).all(0).tolist(), strict=True):
            if not same:
                raise UserError(
                    f"the devices have come to different {name}: train on devices of one kind, with the same packages"
                )


class Gradients:
    """Where a model's gradients are added up: one flat row for each share of this process, the share's loss at its end.

    A parameter's gradient is a view of a row, so that nothing is copied before the row travels. Where a batch is one
    share, there is no row, unless gradients are to have a place that `stays`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], team: Team, stays: bool = False) -> None:
        self.parameters, self.team = parameters, team
        self._rows: Tensor | None = None
        self._total: Tensor | None = None
        if team.shares > 1 or stays:
            size = 1 + sum(parameter.numel() for parameter in parameters)
            width = -(-size // team.size) * team.size
            self._rows = torch.zeros(len(team.own), width, device=parameters[0].device)
            if stays:
                self._total = self._rows[0] if team.shares == 1 else torch.empty_like(self._rows[0])

    def begin(self, share: int) -> None:
        """Let backward add to the gradients of one of this process's shares, from zero on."""
        if self._rows is None:
            for parameter in self.parameters:
                parameter.grad = None
        else:
            self._point_to(self._rows[share].zero_())

    def add(self, losses: Sequence[float | Tensor]) -> float | Tensor:
        """Make the gradients the sum over all shares; these losses are of one's own, and returned is that of all.

        Where gradients are to stay, the sum lies at the same place each time.
        """
        if self._rows is None:
            return losses[0]
        for row, loss in zip(self._rows, losses, strict=True):
            row[-1] = loss
        if self._total is None:
            total = self.team.add(self._rows)
        elif self.team.shares > 1:
            total = self._total.copy_(self.team.add(self._rows))
        else:
            total = self._total
        self._point_to(total)
        return total[-1]

    def _point_to(self, row: Tensor) -> None:
        begin = 0
        for parameter in self.parameters:
            parameter.grad = row[begin : begin + parameter.numel()].view_as(parameter)
            begin += parameter.numel()


@contextlib.contextmanager
def team(shares: int, device: torch.device) -> Iterator[Team]:
    """The team of which torchrun, by the environment, has made this process a part; else a process alone.

    On CUDA, each takes the GPU of its number on its machine.

    Raises:
        Lost: another process has ended before its time.
    """
    if not launched():
        yield Team(shares)
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _reaching_all():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield Team(shares, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def launched() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def _reaching_all() -> Iterator[None]:
    """Torch says by a RuntimeError, and no more exactly, that another process is not there."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(str(error).partition("\n")[0]) from None


def _in_order(rows: Tensor) -> Tensor:
    """The sum [N] of rows [R, N], from the first to the last."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def _packed(checkpoint: Checkpoint) -> bytearray:
    progress = torch.frombuffer(bytearray(json.dumps(checkpoint.progress).encode()), dtype=torch.uint8)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    return bytearray(safetensors.torch.save({**tensors, _PROGRESS: progress}))


def _unpacked(content: bytes) -> Checkpoint:
    tensors = safetensors.torch.load(content)
    progress = tensors.pop(_PROGRESS).numpy().tobytes()
    return Checkpoint(tensors, json.loads(progress))


def _checksum(bits: Tensor) -> Tensor:
    """A number of these integers and their order, modulo 2**64; swapped or opposite differences change it, too."""
    places = torch.arange(1, 2 * bits.numel(), 2, device=bits.device)
    return (bits * places).sum(dtype=torch.int64)

"""From token ids on disk to padded batches: a memory-mapped store, length buckets, a budget of tokens.

No step works sentence by sentence in Python: rows are gathered from the flat store with one index expression.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor

from nmt.config import Joining
from nmt.errors import UserError
from nmt.files import atomic_write, check_file
from nmt.randomness import generator
from nmt.subwords import BOS, EOS, PAD

_SHOWN = 100
NONE = -1
"""Where an example of few sentences has no further one."""

_BLOCK = 1 << 16


class TokenStore:
    """Sentences as one flat array of ids and the offsets of their ends, both memory-mapped.

    `ids` [total pieces] uint16, `offsets` [sentences + 1] int64; no bos, eos or pad is stored.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids = ids
        self.offsets = offsets
        self.lengths = np.diff(offsets).astype(np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @staticmethod
    def write(stem: Path, sequences: Iterable[Sequence[int]]) -> None:
        """Write `<stem>.ids.npy` and `<stem>.offsets.npy`, a block of sequences in memory at a time."""
        remaining = iter(sequences)
        ids, offsets = _growing_array(stem, "ids", np.uint16), _growing_array(stem, "offsets", np.int64)
        with ids as add_ids, offsets as add_offsets:
            add_offsets(np.zeros(1, np.int64))
            end = 0
            while block := list(islice(remaining, _BLOCK)):
                ends = end + np.cumsum(np.fromiter(map(len, block), np.int64, len(block)))
                add_ids(np.fromiter(chain.from_iterable(block), np.uint16, int(ends[-1]) - end))
                add_offsets(ends)
                end = int(ends[-1])

    @classmethod
    def open(cls, stem: Path) -> "TokenStore":
        """Map the two files of `stem`; a missing or damaged one is a UserError."""
        names = [stem.with_name(f"{stem.name}.{kind}.npy") for kind in ("ids", "offsets")]
        ids, offsets = _mapped(names[0], np.dtype(np.uint16)), _mapped(names[1], np.dtype(np.int64))
        if not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise UserError(f"{stem}: offsets must begin at 0 and never fall; run `dvc repro --force tokenize`")
        if len(ids) != offsets[-1]:
            raise UserError(
                f"{stem}: {len(ids)} tokens, but the offsets end at {offsets[-1]}; run `dvc repro --force tokenize`"
            )
        return cls(ids, offsets)

    def lengths_of(self, examples: np.ndarray) -> np.ndarray:
        """The pieces of each sentence of each example: int32 [B, K], 0 where there is none."""
        return np.where(examples == NONE, 0, self.lengths[examples])

    def padded(self, examples: np.ndarray, before: Sequence[int] = (), after: Sequence[int] = ()) -> Tensor:
        """The sentences of each example [B, K], one after the other, between `before` and `after`.

        int64 [B, longest], padded with PAD.
        """
        lengths_BK = self.lengths_of(examples)
        ends_BK = lengths_BK.cumsum(1)
        lengths = ends_BK[:, -1]
        steps = np.arange(int(lengths.max(initial=0)) + len(after))
        inside = steps < lengths[:, None]
        # The sentence that holds a token; its place in the store, less that in the example, is the same for all of it.
        sentence_BT = (steps[:, None] >= ends_BK[:, None, :-1]).sum(-1)
        shift_BK = self.offsets[examples] - ends_BK + lengths_BK
        places = np.where(inside, np.take_along_axis(shift_BK, sentence_BT, axis=1) + steps, 0)
        body = np.where(inside, self.ids[places] if len(self.ids) else 0, PAD).astype(np.int64)
        for i, token in enumerate(after):
            body[np.arange(len(examples)), lengths + i] = token
        head = np.broadcast_to(np.array(before, np.int64), (len(examples), len(before)))
        return torch.from_numpy(np.concatenate([head, body], axis=1))


def _mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file of `np.save` with one dimension of that type, mapped; anything else is a UserError."""
    check_file(path)
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a header is Python text: what numpy says of a damaged one has no end of kinds
        reason = " ".join(str(error).split())[:_SHOWN]
        raise UserError(f"{path}: not a readable token store ({reason}); run `dvc repro --force tokenize`") from None
    if array.dtype != dtype or array.ndim != 1:
        raise UserError(f"{path}: not a token store, but {array.dtype} {array.shape}; run `dvc repro --force tokenize`")
    return array


@contextlib.contextmanager
def _growing_array(stem: Path, kind: str, dtype: type[np.generic]) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what appends to `<stem>.<kind>.npy`, byte for byte the file that `np.save` would write of the whole."""
    with atomic_write(stem.with_name(f"{stem.name}.{kind}.npy")) as stream:
        count = 0

        def write_header() -> None:
            description = np.lib.format.dtype_to_descr(np.dtype(dtype))
            header = {"descr": description, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(stream, header)

        def add(values: np.ndarray) -> None:
            nonlocal count
            stream.write(values.astype(dtype, copy=False).tobytes())
            count += len(values)

        write_header()
        yield add
        stream.seek(0)
        write_header()  # of the same size: numpy leaves room for the digits of a length that grows


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Sequences of ids as int64 [B, longest], padded with PAD, and their lengths [B]."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    rows = torch.full((len(sequences), int(lengths.max())), PAD, dtype=torch.int64)
    inside = torch.arange(rows.shape[1]) < lengths[:, None]
    rows[inside] = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
    return rows, lengths


def similar_shapes(shapes: Sequence[tuple[int, int]], sentences: int, cells: int) -> Iterator[list[int]]:
    """Indices in groups of similar shapes, the largest first: each at most so many items and padded cells, or one."""
    batch: list[int] = []
    height = width = 0
    for i in sorted(range(len(shapes)), key=lambda i: shapes[i], reverse=True):
        height, width = max(height, shapes[i][0]), max(width, shapes[i][1])
        if batch and (len(batch) == sentences or (len(batch) + 1) * height * width > cells):
            yield batch
            batch, (height, width) = [], shapes[i]
        batch.append(i)
    if batch:
        yield batch


@dataclass(frozen=True)
class Batch:
    """Examples of similar lengths. B examples, S and T the longest source and target, eos included."""

    rows: Tensor
    """[B] the place of each example's first sentence in the store: what keyed randomness is keyed by."""
    source_BS: Tensor
    source_lengths_B: Tensor
    inputs_BT: Tensor
    """bos + pieces: what the decoder reads."""
    outputs_BT: Tensor
    """pieces + eos: what the decoder is to write."""
    source_tokens: int
    target_tokens: int
    """Real tokens, eos included."""
    fixed: bool = False
    """Whether B, S and T alone decide what is computed: the loss scores padding, too, and leaves it out of its sums."""

    def padded_to(self, sentences: int, source: int, target: int) -> "Batch":
        """The same examples in a larger, fixed shape; examples without a word fill it up."""
        more, longer, wider = (
            sentences - len(self.rows),
            source - self.source_BS.shape[1],
            target - self.inputs_BT.shape[1],
        )
        return Batch(
            rows=pad_tensor(self.rows, (0, more)),
            source_BS=pad_tensor(self.source_BS, (0, longer, 0, more), value=PAD),
            source_lengths_B=pad_tensor(self.source_lengths_B, (0, more), value=1),
            inputs_BT=pad_tensor(self.inputs_BT, (0, wider, 0, more), value=PAD),
            outputs_BT=pad_tensor(self.outputs_BT, (0, wider, 0, more), value=PAD),
            source_tokens=self.source_tokens,
            target_tokens=self.target_tokens,
            fixed=True,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What lies on a device."""
        return self.rows, self.source_BS, self.source_lengths_B, self.inputs_BT, self.outputs_BT

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        return self._with(tensor.pin_memory().to(device, non_blocking=True) for tensor in self.tensors)

    def copy_to(self, device: torch.device) -> "Batch":
        """The same batch with tensors of its own on `device`."""
        return self._with(tensor.to(device, copy=True) for tensor in self.tensors)

    def _with(self, tensors: Iterable[Tensor]) -> "Batch":
        rows, source, source_lengths, inputs, outputs = tensors
        return Batch(rows, source, source_lengths, inputs, outputs, self.source_tokens, self.target_tokens, self.fixed)


class ParallelText:
    """The token stores of the two sides, and how they are cut into batches."""

    def __init__(self, source: TokenStore, target: TokenStore) -> None:
        if len(source) != len(target):
            raise UserError(
                f"{len(source)} source and {len(target)} target sentences in the token store: "
                "pairs must match line by line; run `dvc repro tokenize`"
            )
        self.source = source
        self.target = target

    @classmethod
    def open(cls, source_stem: Path, target_stem: Path) -> "ParallelText":
        """Map the stores of both sides."""
        return cls(TokenStore.open(source_stem), TokenStore.open(target_stem))

    def __len__(self) -> int:
        return len(self.source)

    def in_epoch(self, epoch: int) -> "ParallelText":
        """What an epoch (from 0) of training reads: the same in all."""
        return self

    def batch(self, examples: np.ndarray) -> Batch:
        """The sentence pairs of examples [B, K], padded."""
        source_lengths = self.source.lengths_of(examples).sum(1) + 1
        return Batch(
            rows=torch.from_numpy(examples[:, 0].astype(np.int64)),
            source_BS=self.source.padded(examples, after=[EOS]),
            source_lengths_B=torch.from_numpy(source_lengths),
            inputs_BT=self.target.padded(examples, before=[BOS]),
            outputs_BT=self.target.padded(examples, after=[EOS]),
            source_tokens=int(source_lengths.sum()),
            target_tokens=int(self.target.lengths_of(examples).sum()) + len(examples),
        )

    @property
    def _row_type(self) -> type[np.signedinteger[Any]]:
        """The smallest type that can index a pair: of ten million pairs, plans are the largest arrays in memory."""
        return np.int32 if len(self) < 2**31 else np.int64

    def plan(self, batch_tokens: int) -> list[np.ndarray]:
        """All pairs in batches of similar lengths; each holds at most `batch_tokens` on its longer side, padded."""
        return self._cut(np.arange(len(self), dtype=self._row_type)[:, None], batch_tokens)

    def shuffled_plan(self, batch_tokens: int, joining: Joining, keys: Sequence[int]) -> list[np.ndarray]:
        """`plan` for training: `keys` (seed, epoch) draw which pairs are joined into one example and the order.

        Every pair is in one example, every example [K] in one batch [B, K].
        """
        random = generator(*keys)
        rows = random.permutation(len(self)).astype(self._row_type)
        batches = self._cut(join_at_random(rows, joining, random), batch_tokens)
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, examples: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
        """Sort examples by length (those of equal lengths stay as they are) and cut them into batches."""
        source_lengths, target_lengths = (store.lengths_of(examples).sum(1) + 1 for store in (self.source, self.target))
        # Source lengths rise and fall in turn from one target length to the next: no batch holds both extremes.
        snake = np.where(target_lengths % 2 == 0, source_lengths, -source_lengths)
        order = np.lexsort((snake, target_lengths))
        widths = np.maximum(source_lengths, target_lengths)[order]
        return [examples[order[begin:end]] for begin, end in _spans(widths, batch_tokens)]


class Segmentations:
    """The same pairs, cut into pieces in several ways, of which each epoch reads one, in turn.

    Those that wait for their turn are mapped files, and no array in memory.
    """

    def __init__(self, texts: Sequence[ParallelText]) -> None:
        if len({len(text) for text in texts}) > 1:
            raise UserError(
                f"the segmentations of the training text have {', '.join(str(len(text)) for text in texts)} pairs: "
                "run `dvc repro --force tokenize`"
            )
        self._stores = [[(store.ids, store.offsets) for store in (text.source, text.target)] for text in texts]

    def in_epoch(self, epoch: int) -> ParallelText:
        """What an epoch (from 0) of training reads."""
        return ParallelText(*(TokenStore(*arrays) for arrays in self._stores[epoch % len(self._stores)]))


def join_at_random(rows: np.ndarray, joining: Joining, random: np.random.Generator) -> np.ndarray:
    """Make examples [E, K] of shuffled rows: a share of them in groups of 2 to `up_to`, each other one alone.

    Concatenation of random sentences (Nguyen, Murray & Chiang 2021, "Data Augmentation by Concatenation for
    Low-Resource Translation"): a model learns to translate inputs longer than the corpus has.
    """
    wanted = round(joining.share * len(rows))
    counts = random.integers(2, joining.up_to + 1, wanted // 2)
    counts = counts[counts.cumsum() <= wanted]
    counts = np.concatenate([counts, np.ones(len(rows) - counts.sum(), np.int64)])
    columns = np.arange(counts.max(initial=1), dtype=rows.dtype)
    begins = (counts.cumsum() - counts).astype(rows.dtype)
    inside = columns < counts[:, None]
    return np.where(inside, rows[np.where(inside, begins[:, None] + columns, 0)], NONE)


def _spans(widths: np.ndarray, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Greedy cuts of a sequence of widths so that widest x count stays within the budget (one item always fits)."""
    begin, widest = 0, 0
    for i, width in enumerate(widths.tolist()):
        if i > begin and max(widest, width) * (i - begin + 1) > batch_tokens:
            yield begin, i
            begin, widest = i, 0
        widest = max(widest, width)
    if begin < len(widths):
        yield begin, len(widths)

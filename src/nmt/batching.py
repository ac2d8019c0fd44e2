"""From token ids on disk to padded batches: a memory-mapped store, length buckets, a budget of tokens.

No step works sentence by sentence in Python: rows are gathered from the flat store with one index expression.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nmt.errors import UserError
from nmt.files import atomic_write
from nmt.randomness import generator
from nmt.subwords import BOS, EOS, PAD


class TokenStore:
    """Sentences as one flat array of ids and the offsets of their ends, both memory-mapped.

    `ids` [total pieces] uint16, `offsets` [sentences + 1] int64; no bos, eos or pad is stored.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids = ids
        self.offsets = offsets
        self.lengths = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @staticmethod
    def write(stem: Path, sequences: Sequence[Sequence[int]]) -> None:
        """Write `<stem>.ids.npy` and `<stem>.offsets.npy`."""
        lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        flat = (token for sequence in sequences for token in sequence)
        ids = np.fromiter(flat, np.uint16, int(offsets[-1]))
        for kind, array in (("ids", ids), ("offsets", offsets)):
            with atomic_write(stem.with_name(f"{stem.name}.{kind}.npy")) as stream:
                np.save(stream, array)

    @classmethod
    def open(cls, stem: Path) -> "TokenStore":
        """Map the two files of `stem`; a missing or damaged one is a UserError."""
        names = [stem.with_name(f"{stem.name}.{kind}.npy") for kind in ("ids", "offsets")]
        try:
            ids, offsets = (np.load(name, mmap_mode="r", allow_pickle=False) for name in names)
        except (OSError, ValueError) as error:
            raise UserError(f"{stem}: no readable token store ({error}); run `dvc repro tokenize`") from None
        if len(ids) != offsets[-1]:
            raise UserError(
                f"{stem}: {len(ids)} tokens, but the offsets speak of {offsets[-1]}; run `dvc repro tokenize`"
            )
        return cls(ids, offsets)

    def padded(self, rows: np.ndarray, before: Sequence[int] = (), after: Sequence[int] = ()) -> Tensor:
        """The sentences of `rows`, each between `before` and `after`, as int64 [B, longest], padded with PAD."""
        lengths = self.lengths[rows]
        steps = np.arange(int(lengths.max(initial=0)) + len(after))
        inside = steps < lengths[:, None]
        places = np.where(inside, self.offsets[rows][:, None] + steps, 0)
        body = np.where(inside, self.ids[places] if len(self.ids) else 0, PAD).astype(np.int64)
        for i, token in enumerate(after):
            body[np.arange(len(rows)), lengths + i] = token
        head = np.broadcast_to(np.array(before, np.int64), (len(rows), len(before)))
        return torch.from_numpy(np.concatenate([head, body], axis=1))


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Sequences of ids as int64 [B, longest], padded with PAD, and their lengths [B]."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    rows = torch.full((len(sequences), int(lengths.max())), PAD, dtype=torch.int64)
    inside = torch.arange(rows.shape[1]) < lengths[:, None]
    rows[inside] = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
    return rows, lengths


@dataclass(frozen=True)
class Batch:
    """Sentence pairs of similar lengths. B sentences, S and T the longest source and target, eos included."""

    rows: Tensor
    """[B] the sentences' places in the store: what keyed randomness is keyed by."""
    source_BS: Tensor
    source_lengths_B: Tensor
    inputs_BT: Tensor
    """bos + pieces: what the decoder reads."""
    outputs_BT: Tensor
    """pieces + eos: what the decoder is to write."""
    source_tokens: int
    target_tokens: int
    """Real tokens, eos included."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        tensors = (self.rows, self.source_BS, self.source_lengths_B, self.inputs_BT, self.outputs_BT)
        rows, source, source_lengths, inputs, outputs = (
            tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors
        )
        return Batch(rows, source, source_lengths, inputs, outputs, self.source_tokens, self.target_tokens)


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

    def batch(self, rows: np.ndarray) -> Batch:
        """The sentence pairs of `rows`, padded."""
        source_lengths = self.source.lengths[rows] + 1
        return Batch(
            rows=torch.from_numpy(rows),
            source_BS=self.source.padded(rows, after=[EOS]),
            source_lengths_B=torch.from_numpy(source_lengths),
            inputs_BT=self.target.padded(rows, before=[BOS]),
            outputs_BT=self.target.padded(rows, after=[EOS]),
            source_tokens=int(source_lengths.sum()),
            target_tokens=int(self.target.lengths[rows].sum()) + len(rows),
        )

    def plan(self, batch_tokens: int, keys: Sequence[int] | None) -> list[np.ndarray]:
        """Cut all pairs into batches of similar lengths; each holds at most `batch_tokens` on its longer side, padded.

        `keys` (seed, epoch) shuffle the pairs of equal lengths and the batches; None gives the plain order of lengths.
        """
        source_lengths, target_lengths = self.source.lengths + 1, self.target.lengths + 1
        random = None if keys is None else generator(*keys)
        ties = np.arange(len(self)) if random is None else random.permutation(len(self))
        # Source lengths rise and fall in turn from one target length to the next: no batch holds both extremes.
        snake = np.where(target_lengths % 2 == 0, source_lengths, -source_lengths)
        order = np.lexsort((ties, snake, target_lengths))
        widths = np.maximum(source_lengths, target_lengths)[order]
        batches = [order[begin:end] for begin, end in _spans(widths, batch_tokens)]
        if random is not None:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches


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

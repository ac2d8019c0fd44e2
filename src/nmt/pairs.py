"""The pairs of a corpus on disk: what the rules of `prepare` ask of each, worked out once, chunk by chunk.

A corpus of ten million pairs is several gigabytes of text, and more as Python strings. So every chunk of it becomes an
Arrow file, with its text and the few numbers that say all about a pair; the files are mapped into memory, and what is
held there are columns of numbers, and the text of a few rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from nmt import paths
from nmt.config import UnicodeForms
from nmt.corpora import CHUNK_LINES, Chunk, in_order_of_ids
from nmt.corpus import identity_keys, normalise_lines, text_lengths
from nmt.filters import script_shares
from nmt.fingerprints import fingerprints
from nmt.processes import in_order

_PRINT = pa.binary(16)


class Pairs:
    """All pairs, in the order of their ids or lines."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._tables = tables
        self._begins = np.cumsum([0, *(len(table) for table in tables)])
        self._order: np.ndarray | None = None  # of the rows on disk
        ids = [self.strings(f"{side}_id") for side in paths.SIDES]
        if not any(column.hasnans for column in ids):
            self._order = in_order_of_ids(*ids)

    @classmethod
    def write(cls, folder: Path, chunks: Iterable[Chunk], languages: tuple[str, str], forms: UnicodeForms) -> "Pairs":
        """Read, normalise and describe `chunks`, on all cores, into files in `folder`."""
        write = partial(_write_chunk, folder, languages, forms)
        return cls([_mapped(path) for path in in_order(write, enumerate(chunks))])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def numbers(self, column: str) -> np.ndarray:
        """A column of numbers or truth values: [N]."""
        return self._ordered(np.concatenate([table[column].to_numpy() for table in self._tables]))

    def fingerprints(self, column: str) -> np.ndarray:
        """A column of fingerprints: uint64 [N, 2]."""
        buffers = [chunk.buffers()[1] for table in self._tables for chunk in table[column].chunks]
        return self._ordered(np.concatenate([np.frombuffer(buffer, "<u8").reshape(-1, 2) for buffer in buffers]))

    def strings(self, column: str) -> pd.Series:
        """A column of short strings: it is mapped, too, if the pairs are in the order of lines."""
        chunks = pa.chunked_array([chunk for table in self._tables for chunk in table[column].chunks])
        series = pd.Series(pd.array(chunks, dtype="str"))
        return series if self._order is None else series.take(self._order).reset_index(drop=True)

    def splits(self) -> pd.Series:
        """The part of the corpus that each pair was delivered in; a chunk has one."""
        names, owners = np.unique([table["split"][0].as_py() for table in self._tables], return_inverse=True)
        codes = np.repeat(owners, np.diff(self._begins)).astype(np.int8)
        return pd.Series(pd.Categorical.from_codes(self._ordered(codes), dtype=pd.CategoricalDtype(names.tolist())))

    def texts(self, column: str, rows: np.ndarray) -> list[str]:
        """The text of some rows, in the order given."""
        places = rows if self._order is None else self._order[rows]
        owners = np.searchsorted(self._begins, places, side="right") - 1
        found = np.empty(len(rows), object)
        for owner in np.unique(owners):
            here = np.flatnonzero(owners == owner)
            found[here] = self._tables[owner][column].take(places[here] - self._begins[owner]).to_pylist()
        return found.tolist()

    def lines(self, column: str, rows: np.ndarray) -> Iterator[str]:
        """The text of many rows, a part of them in memory at a time."""
        for begin in range(0, len(rows), CHUNK_LINES):
            yield from self.texts(column, rows[begin : begin + CHUNK_LINES])

    def _ordered(self, values: np.ndarray) -> np.ndarray:
        return values if self._order is None else values[self._order]


def _write_chunk(folder: Path, languages: tuple[str, str], forms: UnicodeForms, numbered: tuple[int, Chunk]) -> Path:
    """Write the Arrow file of one chunk."""
    number, chunk = numbered
    path = folder / f"{number:06d}.arrow"
    table = described(chunk.pairs(), languages, forms)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()


def described(raw: pd.DataFrame, languages: tuple[str, str], forms: UnicodeForms) -> pa.Table:
    """`source` and `target` as the model sees them, `raw_source` and `raw_target` as delivered, and what follows.

    `source_length` and `target_length` (`text_length`), `script_share` (the lower of the two), `identical`;
    fingerprints of the identity keys (`source_key`, `target_key`) and of the normalised `pair`.
    """
    columns = {name: _strings(raw[name]) for name in ("split", "id", "source_id", "target_id")}
    normal, shares = [], []
    for side, language, form in zip(paths.SIDES, languages, (forms.source, forms.target), strict=True):
        lines = normalise_lines(raw[side].to_list(), language, form)
        columns[f"raw_{side}"] = _strings(raw[side])
        columns[side] = _strings(lines)
        columns[f"{side}_length"] = pa.array(text_lengths(lines, language).astype(np.int32))
        columns[f"{side}_key"] = _prints(identity_keys(lines, language))
        normal.append(lines)
        shares.append(script_shares(lines, language))
    columns["script_share"] = pa.array(np.minimum(*shares))
    columns["identical"] = pa.array([source == target for source, target in zip(*normal, strict=True)])
    columns["pair"] = _prints(f"{source}\n{target}" for source, target in zip(*normal, strict=True))
    return pa.table(columns)


def _strings(texts: Iterable[str]) -> pa.Array:
    return pa.array(list(texts), pa.large_string(), from_pandas=True)


def _prints(texts: Iterable[str]) -> pa.Array:
    prints = fingerprints(texts)
    return pa.FixedSizeBinaryArray.from_buffers(_PRINT, len(prints), [None, pa.py_buffer(prints)])

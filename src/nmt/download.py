"""Bringing a corpus's files here: from URLs, from the package index, or from this machine; all held to their sha256."""

import contextlib
import errno
import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from nmt import files, paths
from nmt.corpora import Corpus, Pin
from nmt.errors import UserError

MIRROR = "NMT_MIRROR"
"""Environment variable: a folder with the files of all URLs, by the last part of their names. No network then."""

_CHUNK = 1 << 18
_MOST_PER_BYTE = 100  # text shrinks to a third or a tenth
_ALWAYS_ALLOWED = 1 << 24  # bytes
_NO_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError, struct.error)
"""What zipfile raises at damaged, foreign, encrypted (RuntimeError) and exotic (NotImplementedError) archives."""
_SECONDS_WITHOUT_DATA = 30
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def fetch_files(corpus: Corpus, folder: Path) -> None:
    """Put all files of `corpus`, as delivered, into `folder`.

    What cannot be had, or has other bytes than the pinned ones, is a UserError.
    """
    for name, pin in corpus.files.items():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download.") as work:
            delivered = _deliver(pin, Path(work))
            if pin.member is not None:
                _check(delivered, pin.archive_sha256, "archive_sha256", f"{name}: the archive {delivered.name}")
                delivered = _take_member(delivered, pin.member, Path(work) / "member")
            _check(delivered, pin.sha256, "sha256", name)
            if name.endswith(".gz"):
                _refuse_bomb(delivered)
            delivered.chmod(0o644)
            delivered.replace(folder / name)
        print(f"fetch: {name}, {(folder / name).stat().st_size:,} bytes, sha256 as pinned", file=sys.stderr)


def _deliver(pin: Pin, work: Path) -> Path:
    """Have the pinned source put its file into `work`."""
    mirror = os.environ.get(MIRROR)
    if pin.package is not None:
        return _from_mirror(Path(mirror), pin.package, work) if mirror else _from_package_index(pin.package, work)
    if pin.path is not None:
        return _copy(Path(pin.path), work, f"the file that {paths.CORPORA} names does not exist; put your text there")
    assert pin.url is not None
    name = PurePosixPath(urlsplit(pin.url).path).name
    if mirror:
        return _copy(Path(mirror) / name, work, f"the mirror folder {MIRROR} has no such file")
    return _download(pin.url, work / name)


def _copy(origin: Path, work: Path, if_missing: str) -> Path:
    try:
        with _full_disk_told(work):
            return Path(shutil.copyfile(origin, work / "copy"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{origin}: {if_missing}") from None
    except OSError as error:
        raise UserError(f"{origin} cannot be read: {error.strerror or error}") from None


def _download(url: str, destination: Path) -> Path:
    """Download with a progress bar; a connection that fails, stalls or ends early is a UserError."""
    try:
        with (
            _full_disk_told(destination),
            contextlib.closing(_OPENER.open(url, timeout=_SECONDS_WITHOUT_DATA)) as response,
            destination.open("wb") as stream,
        ):
            size = response.headers.get("Content-Length")
            expected = int(size) if size and size.isdecimal() else None
            with tqdm(total=expected, desc=destination.name, unit="B", unit_scale=True, file=sys.stderr) as progress:
                while chunk := response.read(_CHUNK):
                    stream.write(chunk)
                    progress.update(len(chunk))
    except UserError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be downloaded: {reason}; check the network, or set {MIRROR} to a folder that holds the file"
        ) from None
    received = destination.stat().st_size
    if expected is not None and received != expected:
        raise UserError(f"{url}: the download was interrupted after {received:,} of {expected:,} bytes; run again")
    return destination


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to the web alone, and from https to https alone."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        allowed = ("https",) if req.type == "https" else ("https", "http")
        if urlsplit(newurl).scheme not in allowed:
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(Redirects)


def _from_package_index(requirement: str, work: Path) -> Path:
    """Download a wheel with pip, so that pip's own settings (index, proxy, certificates) hold. Nothing is installed."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(work), requirement]
    finished = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = sorted(work.glob("*.whl"))
    if finished.returncode != 0 or len(wheels) != 1:
        raise UserError(
            f"pip could not download {requirement} (its message is above); check the network and pip's index settings "
            "(`pip config list`, PIP_INDEX_URL)"
        )
    return wheels[0]


def _from_mirror(mirror: Path, requirement: str, work: Path) -> Path:
    """Copy a wheel that lies in the mirror folder."""
    name, _, version = requirement.partition("==")
    wheels = sorted(mirror.glob(f"{re.sub('[-_.]+', '_', name)}-{version}-*.whl"))  # so wheels are named (PEP 427)
    if not wheels:
        raise UserError(
            f"the mirror folder {MIRROR} ({mirror}) has no wheel of {requirement}; "
            f"where there is a network, `pip download --no-deps {requirement}` gets it"
        )
    with _full_disk_told(work):
        return Path(shutil.copy(wheels[0], work))


def _take_member(archive: Path, member: str, destination: Path) -> Path:
    """Unpack one member to `destination`: under whatever name it has in the archive, nothing else is written."""
    try:
        with (
            _full_disk_told(destination),
            zipfile.ZipFile(archive) as opened,
            opened.open(member) as inside,
            destination.open("wb") as stream,
        ):
            _copy_bounded(inside, stream, f"{archive.name}: {member}", opened.getinfo(member).compress_size)
    except KeyError:
        raise UserError(f"{archive.name} holds no file {member!r}; correct `member` in {paths.CORPORA}") from None
    except UserError:
        raise
    except _NO_ZIP as error:
        raise UserError(f"{archive.name} is not a readable zip archive: {' '.join(str(error).split())}") from None
    return destination


def _refuse_bomb(path: Path) -> None:
    """Refuse a gzip file that is damaged, or unpacks to more than a text can."""
    try:
        with gzip.open(path) as inside, open(os.devnull, "wb") as stream:
            _copy_bounded(inside, stream, path.name, path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path.name} cannot be decompressed: {error}; is it a whole gzip file?") from None


@contextlib.contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    """What only writing meets is told of the place that is written, not of the origin, the network or the archive."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(files.told(error, path)) from None


def _copy_bounded(inside: IO[bytes] | gzip.GzipFile, stream: IO[bytes], what: str, packed: int) -> None:
    """Copy what is unpacked, as long as it is not much more than was packed; what a header declares is not believed."""
    most = max(_ALWAYS_ALLOWED, packed * _MOST_PER_BYTE)
    copied = 0
    while chunk := inside.read(_CHUNK):
        copied += len(chunk)
        if copied > most:
            raise UserError(
                f"{what} unpacks to more than {most:,} bytes, {_MOST_PER_BYTE} times what is packed: no text does that"
            )
        stream.write(chunk)


def _check(path: Path, expected: str | None, key: str, what: str) -> None:
    """Hold a file to its pinned checksum."""
    actual = files.sha256(path)
    if expected is None:
        raise UserError(f"{what} is not pinned yet: set its {key} in {paths.CORPORA} to {actual}")
    if actual != expected:
        raise UserError(
            f"{what} has the sha256 {actual}, but {paths.CORPORA} pins {expected}: "
            f"it is another version or damaged; if you trust it, set {key} to the first"
        )

"""`nmt serve` in a process of its own, as a user starts it, with a small untrained model."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from tests.project import ROOT


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server and its log."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        """A client that waits long enough for a busy machine."""
        return httpx.Client(base_url=self.url, timeout=60, verify=False)  # certificates take long to load

    def translate(self, *sources: str, **settings: object) -> httpx.Response:
        """One request for translations."""
        with self.client() as client:
            return client.post("/translate", json={"source": sources, **settings})

    def health(self) -> dict[str, int | str]:
        """What /health tells."""
        with self.client() as client:
            return dict(client.get("/health").json())

    def raw(self, content: bytes, *, end: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Send bytes, answer with status, headers and body; `end` closes our side after sending."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(content)
            if end:
                connection.shutdown(socket.SHUT_WR)
            return answer_of(connection)

    def model_process(self) -> psutil.Process:
        """The process that translates."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[psutil.Process]:
        """The translating process stands still meanwhile: what comes in has to wait."""
        process = self.model_process()
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one response from a socket."""
    response = b""
    while b"\r\n\r\n" not in response:
        part = connection.recv(65536)
        assert part, f"no answer but {response!r}"
        response += part
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def post(body: bytes, *headers: str, path: str = "/translate") -> bytes:
    """The bytes of a POST with a length and the right type, unless `headers` say otherwise."""
    names = {header.partition(":")[0].lower() for header in headers}
    standard = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [
        f"POST {path} HTTP/1.1",
        *(f"{key}: {value}" for key, value in standard.items() if key.lower() not in names),
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@contextlib.contextmanager
def serving(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Start a server at a free port, and end it as a service manager does; a traceback in its log is an error."""
    command = [sys.executable, "-m", "nmt", "serve", "--model", str(model), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream, text=True
        )
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            assert found, f"{line!r} {log.read_text()}"
            yield Server(process, int(found[1]), log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.communicate()
    assert "Traceback" not in log.read_text(), log.read_text()


def until(condition: Callable[[], bool], seconds: float = 150.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def error_of(body: bytes) -> str:
    """The reason in an error's body, which holds nothing else."""
    content = json.loads(body)
    assert list(content) == ["error"]
    assert isinstance(content["error"], str)
    return content["error"]

"""Real servers on loopback for the integration tests: MLflow, PostgreSQL, and S3 as moto speaks it."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 180


@dataclass
class Server:
    """A process group of ours that answers at an address."""

    address: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    answers: Callable[[], bool]
    process: "subprocess.Popen[bytes] | None" = None

    def up(self) -> None:
        """Start, and return when it answers."""
        self.process = self.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.poll() is None, f"{self.address} ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.address} does not answer"
            time.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def down(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(number)
            self.process.wait(60)


@contextlib.contextmanager
def running(server: Server, number: signal.Signals = signal.SIGKILL) -> Iterator[Server]:
    """Start the server, and end it with the block."""
    try:
        server.up()
        yield server
    finally:
        server.down(number)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def mlflow_server(folder: Path, store: str, artifacts: str, environment: Mapping[str, str] | None = None) -> Server:
    """`mlflow server` on a backend store and an artifact store; its log is in `folder`."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", store, "--artifacts-destination", artifacts]
    command = [sys.executable, "-m", "mlflow", "server", *options, *stores]
    return Server(address, lambda: _spawn(command, folder / "mlflow.log", environment or {}), lambda: _answers(address))


def s3_server(folder: Path) -> Server:
    """Moto's server: S3 in memory."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Server(address, lambda: _spawn(command, folder / "s3.log", {}), lambda: _answers(address))


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own in a temporary folder; gives the address of its database."""
    folder = Path(tempfile.mkdtemp(prefix="nmt-postgresql-"))
    user = _postgresql_user(folder)
    data, port = folder / "data", free_port()
    try:
        initialize = [_postgresql("initdb"), "-D", str(data), "-U", "nmt", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run([*initialize, "--no-sync"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
        options = ["-h", "127.0.0.1", "-k", str(folder), "-p", str(port), "-F"]
        command = [_postgresql("postgres"), "-D", str(data), *options]
        address = f"postgresql://nmt@127.0.0.1:{port}/postgres"
        server = Server(address, lambda: _spawn(command, folder / "log", {}, **user), lambda: _has_database(address))
        with running(server, signal.SIGINT):  # its fast shutdown
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgresql_user(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to be run by root: nobody runs it then, and owns the folder."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _postgresql(program: str) -> str:
    """A program of PostgreSQL: Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which(program)
    if found is None:
        pytest.skip("needs PostgreSQL (Debian and Ubuntu: apt install postgresql)")
    return found


def _spawn(
    command: list[str], output: Path, environment: Mapping[str, str], **options: Any
) -> "subprocess.Popen[bytes]":
    with output.open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=output.parent,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **options,
        )


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=1).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def _has_database(address: str) -> bool:
    import psycopg

    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True

"""Where runs go, and whether anything answers there; nothing here imports mlflow."""

import contextlib
import fcntl
import http.client
import importlib.util
import os
import re
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from nmt import paths
from nmt.errors import UserError, without_secrets

PROBE_SECONDS = 2.0
LOCK_SECONDS = 300.0
_QUESTION = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
_SQLITE = "sqlite:///"
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|$)")
_EXPERIMENTS = (".dvc", "tmp", "exps")  # below it, DVC runs `--temp` and queued experiments in copies of the workspace


class Unavailable(UserError):
    """Nothing can be tracked now; the message says why."""


def switched_off() -> str | None:
    """Why every function is a no-op here; None where tracking is on."""
    if os.environ.get("NMT_TRACKING", "").lower() in ("off", "0", "false", "no"):
        return "switched off by NMT_TRACKING"
    if importlib.util.find_spec("mlflow") is None:
        return "mlflow is not installed"
    return None


def workspace() -> Path:
    """The repository root that keeps the store, also from inside the copy in which DVC runs an experiment."""
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    for parent in root.parents:
        if parent.parts[-3:] == _EXPERIMENTS:
            return parent.parents[2]
    return root


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else an SQLite file in the workspace.

    A relative path of SQLite's becomes absolute, from the workspace: in the copy of an experiment it would be lost.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    path = uri.removeprefix(_SQLITE)
    if not uri.startswith(_SQLITE) or not path or path.startswith(("/", ":")):
        return uri
    root = str(workspace()).replace("%", "%25").replace("?", "%3F")  # the rest SQLAlchemy takes as it is
    return f"{_SQLITE}{root}/{path}"


def artifact_root(uri: str) -> str | None:
    """Where the artifacts of a store of our own go; None leaves it to the server."""
    return (workspace() / "mlartifacts").as_uri() if sqlite_file(uri) else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server stands between us and the store."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The database of an SQLite address."""
    return Path(unquote(uri.removeprefix(_SQLITE))) if uri.startswith(_SQLITE) else None


def probe(uri: str, seconds: float = PROBE_SECONDS) -> None:
    """Raise Unavailable unless the store answers in time; MLflow's own calls would try for minutes."""
    shown = without_secrets(uri)
    if _HOST_AND_PORT.match(uri):
        raise Unavailable(f"MLFLOW_TRACKING_URI {shown} lacks its scheme; write http://{shown}")
    try:
        if is_server(uri):
            _ask_server(uri, seconds)
        elif database := sqlite_file(uri):
            with contextlib.closing(sqlite3.connect(database, seconds)) as connection:
                connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, ValueError, http.client.HTTPException, sqlite3.Error) as error:
        raise Unavailable(f"no answer from {shown} ({getattr(error, 'reason', error)})") from None


def _ask_server(uri: str, seconds: float) -> None:
    """Raise unless anything answers; whether it lets us in, and what it says, shows in MLflow's own calls.

    The question needs the server's database: `/health` is answered also when that hangs.
    """
    try:
        scheme, _, rest = uri.partition("://")
        host, slash, path = rest.partition("/")
        address = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"  # urllib would take a password for a port
        urllib.request.urlopen(f"{address.rstrip('/')}{_QUESTION}", timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # MLFLOW_TRACKING_INSECURE_TLS may allow what we do not
            raise


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One process of this workspace at a time: a fresh SQLite store breaks, and runs double, under several at once."""
    path = workspace() / paths.STATE / "tracking.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    with path.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"another process holds {path}") from None
                time.sleep(0.05)
        yield

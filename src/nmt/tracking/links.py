"""From an id, a name or an experiment to its MLflow run, and from the run to all that made it."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt import paths
from nmt.errors import UserError, without_secrets
from nmt.tracking import place
from nmt.tracking.parts import CHANGES
from nmt.tracking.publish import one_line
from nmt.tracking.store import existing_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NAME = re.compile(r"[\w.=,+\-]+")
_SHORTEST_ID = 4  # digits of a result's id
_LOCAL_PAGES = "http://127.0.0.1:5000"  # where `make ui` shows an SQLite store


@dataclass(frozen=True)
class Link:
    """Where a run is seen, and where it came from."""

    url: str
    name: str
    status: str
    result_id: str
    commit: str | None
    changed: bool
    """Whether the tree differed from the commit; `changes.patch` of the run says how."""
    experiment: str | None
    """The name of the DVC experiment."""


@dataclass(frozen=True)
class Origin:
    """All that a run was made from."""

    name: str
    variant: str
    seed: int
    commit: str
    changes: bytes | None
    params: str
    lock: str


def link(name: str) -> Link:
    """The run of a result's id (or its first digits), of a run's name or id, or of a DVC experiment with one model.

    Raises:
        UserError: no run, or several, go by that name; or the store does not answer.
    """
    with existing_store() as client:
        run = _find(client, name)
        tags = run.data.tags
        base = place.tracking_uri() if place.is_server(place.tracking_uri()) else _LOCAL_PAGES
        base = without_secrets(base)
        return Link(
            url=f"{base.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
            name=run.info.run_name,
            status=run.info.status,
            result_id=tags["result_id"],
            commit=tags.get("git.commit"),
            changed=tags.get("git.dirty") == "true",
            experiment=tags.get("DVC_EXP_NAME"),
        )


def origin(name: str) -> Origin:
    """What the run of that name was made from, out of its tags and artifacts.

    Raises:
        UserError: there is no such run, or it lacks something; the message says what.
    """
    with existing_store() as client:
        run = _find(client, name)
        tags, own = run.data.tags, run.info.run_name
        if tags.get("kind") != "model":
            raise UserError(f"{own} is not a run of a model; name one that `dvc exp show` or `nmt leaderboard` lists")
        if "git.commit" not in tags:
            raise UserError(f"{own} was made outside git: nobody knows from which code")
        names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
        if missing := {paths.PARAMS.name, paths.LOCK.name} - names:
            raise UserError(
                f"{own} holds no {' and no '.join(sorted(missing))} yet; where it was made, "
                "`dvc repro` and `nmt publish` add what is missing"
            )
        if tags.get("git.dirty") == "true" and CHANGES not in names:
            raise UserError(f"{own} was made from a changed tree, but holds no {CHANGES}")
        return Origin(
            name=own,
            variant=tags["variant"],
            seed=int(tags["seed"]),
            commit=tags["git.commit"],
            changes=artifact(client, run.info.run_id, CHANGES) if CHANGES in names else None,
            params=artifact(client, run.info.run_id, paths.PARAMS.name).decode("utf-8"),
            lock=artifact(client, run.info.run_id, paths.LOCK.name).decode("utf-8"),
        )


def known_results(result_ids: set[str]) -> set[str]:
    """Those of the results that have a finished run."""
    with existing_store() as client:
        finished = "attributes.status = 'FINISHED' and tags.kind = 'model'"
        return {run.data.tags.get("result_id", "") for run in _search(client, finished)} & result_ids


def artifact(client: "MlflowClient", run_id: str, name: str) -> bytes:
    """The bytes of one file of a run."""
    with tempfile.TemporaryDirectory() as scratch:
        return Path(client.download_artifacts(run_id, name, scratch)).read_bytes()


@contextlib.contextmanager
def existing_store() -> "Iterator[MlflowClient]":
    """The store that is there, for reading; nothing is created, and a failure is one line.

    Raises:
        UserError: there is none, or it does not answer.
    """
    if reason := place.switched_off():
        raise UserError(f"tracking: {reason}")
    where, client = place.tracking_uri(), existing_client()
    from mlflow.exceptions import MlflowException

    try:
        yield client
    except (MlflowException, OSError) as error:
        raise UserError(f"{where}: {one_line(error)}") from error


def _find(client: "MlflowClient", name: str) -> "Run":
    """The one run that goes by that name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is neither a result's id nor a run's name")
    queries = [f"attributes.run_id = '{name}'", f"attributes.run_name = '{name}'"]
    if len(name) >= _SHORTEST_ID:
        queries.append(f"tags.result_id LIKE '{name}%'")
    queries.append(f"tags.DVC_EXP_NAME = '{name}' and tags.kind = 'model'")
    for query in queries:
        runs = {run.data.tags["result_id"]: run for run in _search(client, query) if "result_id" in run.data.tags}
        if len(runs) > 1:
            names = ", ".join(sorted(run.info.run_name for run in runs.values()))
            raise UserError(f"{name} stands for several runs: {names}; name one of them")
        if runs:
            return next(iter(runs.values()))
    raise UserError(f"{place.tracking_uri()} has no run {name}; `nmt publish` adds what lies in this folder")


def _search(client: "MlflowClient", query: str) -> list["Run"]:
    """All runs that match, newest first, so that the oldest of two runs of a result comes last and is kept."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(experiments, query, order_by=["start_time DESC"], page_token=token)
        found += page
        token = page.token
        if not token:
            return found

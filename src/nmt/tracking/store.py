"""One experiment of an MLflow store: opening it safely, finding or creating a run."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmt.errors import UserError, without_secrets
from nmt.tracking import place
from nmt.tracking.values import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BATCH = 1000  # the most metrics or tags that one request may carry
PARAM_BATCH = 100
_ENVIRONMENT = {  # what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `nmt publish` is the second try
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; a server that passes a model on to S3 answers when S3 has it
}


@dataclass(frozen=True)
class Store:
    """A client and the experiment that our runs are in."""

    client: "MlflowClient"
    experiment_id: str

    def find(self, result_id: str) -> "Run | None":
        """The run of a result, whichever process created it; the oldest if a second machine made another."""
        query = f"tags.result_id = '{result_id}'"
        runs = self.client.search_runs([self.experiment_id], query, max_results=1, order_by=["start_time ASC"])
        return runs[0] if runs else None

    def create(self, name: str, tags: Mapping[str, str]) -> "Run":
        """A new run, found by its tags from its first moment on; the older one, if another machine was quicker."""
        run = self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name)
        first = self.find(tags["result_id"])
        if first is None or first.info.run_id == run.info.run_id:
            return run
        self.client.delete_run(run.info.run_id)
        return first

    def with_params(self, run: "Run", params: Mapping[str, object]) -> "Run":
        """The run with those parameters added that it lacks; those that it has stay as they are."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
        for start in range(0, len(entries), PARAM_BATCH):
            self.client.log_batch(run.info.run_id, params=entries[start : start + PARAM_BATCH])
        return self.client.get_run(run.info.run_id) if entries else run


class Curves:
    """The points of one run, to which those are added that it lacks.

    A step that the run has is not sent again. Nor does a point double whose sending was cut off and which the store has
    taken nevertheless: it is sent again with the same time, and the store keeps one of equal points.
    """

    def __init__(self, store: Store, run: "Run") -> None:
        self._store, self._run = store, run
        self._steps: dict[str, set[int]] = {}

    def add(self, points: Iterable[Point]) -> None:
        """Log the points whose step the run has not yet, in as few requests as may be."""
        from mlflow.entities import Metric

        missing = [point for point in points if point.step not in self._known(point.name)]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            begin = self._run.info.start_time
            metrics = [Metric(p.name, p.value, begin if p.time is None else p.time, p.step) for p in batch]
            self._store.client.log_batch(self._run.info.run_id, metrics=metrics)
            for point in batch:
                self._steps[point.name].add(point.step)

    def _known(self, name: str) -> set[int]:
        """The steps of a curve that the run has; asked once."""
        if name not in self._steps:
            known = name in self._run.data.metrics
            history = self._store.client.get_metric_history(self._run.info.run_id, name) if known else []
            self._steps[name] = {metric.step for metric in history}
        return self._steps[name]


def open_store(experiment: str) -> Store:
    """Open the store and create the experiment if it is new; call it under `place.lock()`.

    Raises:
        place.Unavailable: nothing answers.
    """
    uri = place.tracking_uri()
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return Store(client, found.experiment_id)
    return Store(client, client.create_experiment(experiment, artifact_location=place.artifact_root(uri)))


def existing_client() -> "MlflowClient":
    """The client of a store that is there; nothing is created.

    Raises:
        UserError: there is none, or it does not answer.
    """
    where = place.tracking_uri()
    if (database := place.sqlite_file(where)) and not database.exists():
        raise UserError(f"{database} does not exist; `nmt publish` makes it, or set MLFLOW_TRACKING_URI")
    return open_client(where)


def open_client(uri: str) -> "MlflowClient":
    """Probe the address and connect; a fresh SQLite store is filled with tables.

    Raises:
        place.Unavailable: nothing answers, or MLflow cannot work with what does.
    """
    place.probe(uri)
    _set_environment()
    from mlflow import MlflowClient

    _be_quiet()
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:  # MLflow's, SQLAlchemy's and the database drivers' errors have no common base
        reason = next(iter(str(error).splitlines()), "")
        raise place.Unavailable(without_secrets(f"{uri}: {type(error).__name__}: {reason}")) from error


def _set_environment() -> None:
    """Short timeouts, no telemetry, no progress bars, no links on standard output."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _be_quiet() -> None:
    """Keep the logs of migrations and retries, and other people's warnings, off a user's terminal."""
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("alembic", "mlflow", "pydantic", "sqlalchemy"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")

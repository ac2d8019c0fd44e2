"""One experiment of an MLflow store: opening it safely, finding or creating a run."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmt.tracking import place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

BATCH = 1000  # the most metrics or tags that one request may carry
PARAM_BATCH = 100
_ENVIRONMENT = {  # what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `nmt publish` is the second try
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
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

    def create(self, name: str, tags: Mapping[str, str], params: Mapping[str, object]) -> "Run":
        """A new run with its tags and parameters; an interrupted one is not found again, as the tags come last."""
        from mlflow.entities import Param, RunTag

        run_id = self.client.create_run(self.experiment_id, run_name=name).info.run_id
        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), PARAM_BATCH):
            self.client.log_batch(run_id, params=entries[start : start + PARAM_BATCH])
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        return self.client.get_run(run_id)

    def log_metrics(self, run_id: str, metrics: Iterable["Metric"]) -> None:
        """Any number of points, in as few requests as may be."""
        points = list(metrics)
        for start in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + BATCH])


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


def open_client(uri: str) -> "MlflowClient":
    """Probe the address and connect; a fresh SQLite store is filled with tables."""
    place.probe(uri)
    _set_environment()
    from mlflow import MlflowClient

    _be_quiet()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


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

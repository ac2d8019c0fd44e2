"""The registered versions of one direction: finding one, reading what tests it, and moving the champion's alias."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmt import lockfile, paths
from nmt.errors import UserError
from nmt.promotion import Candidate
from nmt.tracking.links import artifact, existing_store
from nmt.tracking.model import CHAMPION, registered_name
from nmt.tracking.parts import HYPOTHESES

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Registry:
    """The versions of one registered model."""

    client: "MlflowClient"
    name: str

    def version(self, number: int) -> Any:
        """The version of that number."""
        return self._got(lambda: self.client.get_model_version(self.name, str(number)), f"version {number}")

    def of_result(self, result_id: str, name: str) -> Any:
        """The version that a result was registered as; `name` is what the user calls the result."""
        query = f"name = '{self.name}' and tags.result_id = '{result_id}'"
        versions = list(self.client.search_model_versions(query))
        if not versions:
            raise UserError(f"{self.name} has no version of {name} (result {result_id}); `nmt publish` registers it")
        return min(versions, key=lambda one: int(one.version))

    def champion(self) -> Any | None:
        """The version that bears the alias; None where there is no such alias, or no model yet."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(self.name, CHAMPION)
        except MlflowException as error:
            if error.error_code in _NONE_THERE:
                return None
            raise  # a store that does not answer has said nothing of a champion

    def candidate(self, version: Any, metric: str) -> Candidate:
        """What a test of this version needs, out of its run."""
        run = self.client.get_run(version.run_id)
        score, tags = run.data.metrics.get(f"scores/{metric}.score"), run.data.tags
        names = {
            entry.path for folder in (None, "scores") for entry in self.client.list_artifacts(run.info.run_id, folder)
        }
        wanted = {f"scores/{HYPOTHESES}", paths.LOCK.name}
        if score is None or not wanted <= names:
            raise UserError(
                f"the run of version {version.version}, {run.info.run_name}, lacks "
                f"{', '.join(sorted(wanted - names)) or metric}; where it was made, `nmt publish` adds what is missing"
            )
        lock = artifact(self.client, run.info.run_id, paths.LOCK.name).decode("utf-8")
        hypotheses = artifact(self.client, run.info.run_id, f"scores/{HYPOTHESES}").decode("utf-8")
        return Candidate(
            version=int(version.version),
            result_id=tags["result_id"],
            score=score,
            hypotheses=hypotheses.removesuffix("\n").split("\n"),
            test_set=lockfile.test_set(lockfile.parse(lock), tags["variant"], int(tags["seed"])),
        )

    def score(self, version: Any, metric: str) -> float | None:
        """The recorded score of a version."""
        score: float | None = self.client.get_run(version.run_id).data.metrics.get(f"scores/{metric}.score")
        return score

    def write(self, version: Any, facts: Mapping[str, object], sentence: str) -> None:
        """Keep a decision with the version: as tags (the last one) and as a line of its card (all of them)."""
        for key, value in facts.items():
            self.client.set_model_version_tag(self.name, version.version, f"promotion.{key}", str(value))
        card = self.version(int(version.version)).description or ""
        heading = "" if _HEADING in card else f"\n{_HEADING}\n\n"
        self.client.update_model_version(self.name, version.version, f"{card}{heading}- {sentence}\n")

    def set_champion(self, version: Any) -> None:
        """Move the alias."""
        self.client.set_registered_model_alias(self.name, CHAMPION, version.version)

    def _got(self, ask: Any, what: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return ask()
        except MlflowException as error:
            if error.error_code not in _NONE_THERE:
                raise
            raise UserError(f"{self.name} has no {what}: {next(iter(str(error).splitlines()), '')}") from None


_HEADING = "## Promotion"
_NONE_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow says of a model, and of an alias, that there is not."""


@contextlib.contextmanager
def registry(source: str, target: str) -> Iterator[Registry]:
    """The registered model of one direction.

    Raises:
        UserError: there is no store, or it does not answer.
    """
    with existing_store() as client:
        yield Registry(client, registered_name(source, target))

"""Bringing the files of a result into its MLflow run: what is not there yet is added, what is there stays."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmt import files, identity, paths
from nmt.config import load_params
from nmt.errors import UserError, without_secrets
from nmt.tracking import place
from nmt.tracking.parts import Part, parts_of
from nmt.tracking.provenance import provenance_tags
from nmt.tracking.result import Result
from nmt.tracking.store import Store, open_store
from nmt.tracking.values import flatten

if TYPE_CHECKING:
    from mlflow.entities import Run

LONGEST_REASON = 200


@dataclass(frozen=True)
class Published:
    """What one call added to one run; `warning` says why nothing was."""

    name: str
    added: tuple[str, ...] = ()
    state: str = "nothing to add"
    warning: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.warning or ('added ' + ', '.join(self.added) if self.added else self.state)}"


def publish_all(models: Iterable[tuple[str, int]]) -> Iterator[Published]:
    """The same for several models and the comparison, telling what was added.

    Raises:
        place.Unavailable: tracking is off, nothing answers, or the store refuses.
    """
    if reason := place.switched_off():
        raise place.Unavailable(f"tracking: {reason}")
    for variant, seed in models:
        try:
            with _failures_told():
                published = published_model(variant, seed)
        except place.Unavailable:
            raise
        except UserError as error:  # one damaged result keeps no other from its run
            published = Published(f"{variant} {seed}", warning=str(error))
        yield published
    with _failures_told():
        comparison = published_comparison()
    if comparison:
        yield comparison


def find_or_create(store: Store, result: Result) -> "Run":
    """The result's run; call it under `place.lock()`."""
    own = {"variant": result.variant, "seed": str(result.seed)}
    own["attention"] = result.params.variant(result.variant).attention
    run = store.find(result.result_id)
    if run is None:
        ids = {"training_id": result.training_id, "result_id": result.result_id, "kind": "model"}
        run = store.create(result.name, {**own, **ids, **provenance_tags()})
    return store.with_params(run, {**flatten(result.params.model_dump()), **own})


def published_model(variant: str, seed: int) -> Published:
    """Log whatever of this result is on disk and not in MLflow yet."""
    result = Result.present(variant, seed)
    if result.training_summary is None:
        return Published(f"{variant} {seed}", state=result.state)
    with place.lock():
        store = open_store(result.params.tracking.experiment)
        run = find_or_create(store, result)
        parts = list(parts_of(result))
        if changed := [part.name for part in parts if part.contradicts(run)]:
            return Published(result.name, warning=_other_bytes(changed))
        added = tuple(_log_new(store, run, parts))
        if result.finished and run.info.status != "FINISHED":
            store.client.set_terminated(run.info.run_id, "FINISHED")
    return Published(result.name, added, result.state)


def published_comparison() -> Published | None:
    """Log the comparison of all models, if there is one.

    A run per state of the report: adding a variant makes a new comparison, and the old one stays true.
    """
    if not paths.COMPARISON.is_dir() or not any(paths.COMPARISON.iterdir()):
        return None
    digest = identity.content_hash(paths.COMPARISON)
    parts = [Part("comparison", digest, lambda store, run: _log_folder(store, run, paths.COMPARISON)), *_page(digest)]
    with place.lock():
        store = open_store(load_params().tracking.experiment)
        name = f"comparison-{digest[:8]}"
        tags = {"result_id": f"comparison-{digest}", "kind": "comparison", **provenance_tags()}
        run = store.find(tags["result_id"]) or store.create(name, tags)
        added = tuple(_log_new(store, run, parts))
        if added or run.info.status != "FINISHED":
            store.client.set_terminated(run.info.run_id, "FINISHED")
    return Published(name, added)


def _page(comparison: str) -> Iterator[Part]:
    """The page made from this comparison, if it is on disk; one made from another says so in its head."""
    if paths.PAGE.exists() and comparison in files.read_text(paths.PAGE).partition("</head>")[0]:
        yield Part("report", files.sha256(paths.PAGE), _log_page, changes=True)


def _log_page(store: Store, run: "Run") -> None:
    store.client.log_artifact(run.info.run_id, str(paths.PAGE))


def _log_folder(store: Store, run: "Run", folder: Path) -> None:
    store.client.log_artifacts(run.info.run_id, str(folder), folder.name)


def _log_new(store: Store, run: "Run", parts: Iterable[Part]) -> Iterator[str]:
    """Log the parts that the run lacks; the tag follows the content, so a part cut off half-way is done again."""
    for part in parts:
        if part.due(run):
            part.log(store, run)
            store.client.set_tag(run.info.run_id, part.tag, part.digest)
            yield part.name


def _other_bytes(changed: list[str]) -> str:
    return (
        f"the run holds {', '.join(changed)} of other bytes under the same id, so nothing was logged; "
        "if the new ones are right, delete that run in MLflow and call `nmt publish`"
    )


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
    """A failure of MLflow's becomes one line for the user, a bug of ours stays a traceback."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException | OSError):
            raise place.Unavailable(one_line(error)) from error
        raise


def one_line(error: BaseException) -> str:
    """An exception's first line, with its type unless it was written for users; MLflow's can be very long."""
    text = without_secrets(next(iter(str(error).splitlines()), ""))
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:LONGEST_REASON]}"

"""What a run consists of: each part is logged once, and a tag of the run remembers the bytes it was logged from."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt import files, identity, paths
from nmt.config import load_yaml
from nmt.tracking import model, provenance, values
from nmt.tracking.result import Result
from nmt.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

CURVE = "curve"
_OWNERS = ("training_id", "result_id", "variant", "seed", "attention", "hypotheses_sha256")  # tags of the run already
_DIGEST_LIMIT = 36  # characters of a dataset's digest that MLflow keeps: an md5 and DVC's ".dir"


@dataclass(frozen=True)
class Part:
    """Something of a result that is on disk, or of its surroundings."""

    name: str
    digest: str
    log: Callable[[Store, "Run"], None]
    result: bool = True
    """Whether the result's id determines its bytes; of surroundings (params.yaml as a whole, the commit) and of the
    analysis, which has parameters of its own, it does not, and the run keeps those that it got first."""
    view: bool = False
    """Whether it only shows other parts, so that newer bytes take the place of older ones."""

    @property
    def tag(self) -> str:
        return f"logged.{self.name}"

    def missing_from(self, run: "Run") -> bool:
        """Whether the run has yet to get it."""
        have = run.data.tags.get(self.tag)
        return have is None or (self.view and have != self.digest)

    def contradicts(self, run: "Run") -> bool:
        """Whether the run holds other bytes under the same id."""
        return self.result and run.data.tags.get(self.tag, self.digest) != self.digest


def parts_of(result: Result) -> Iterator[Part]:
    """The parts of a trained result, in the order in which they are logged."""
    yield Part("provenance", "1", _log_provenance, result=False)
    if digest := _dataset_digest():
        yield Part("dataset", digest, partial(_log_dataset, result, digest), result=False)
    training = [result.history_file, result.training_report / "summary.json"]
    yield Part("training", _digest(training), partial(_log_training, result))
    if result.scores is not None:
        yield Part("scores", _digest([result.scores_file]), partial(_log_scores, result))
    if result.attention_summary is not None:
        summary = result.attention_report / "summary.json"
        yield Part("attention", _digest([summary]), partial(_log_attention, result), result=False)
    if result.finished and result.bundle.is_dir():
        digest = identity.content_hash(result.bundle)
        yield Part("model", digest, partial(model.log_model, result))


def _log_provenance(store: Store, run: "Run") -> None:
    """params.yaml, and the local changes if there are any."""
    store.client.log_artifact(run.info.run_id, str(paths.PARAMS))
    checkout = provenance.read_checkout()
    if checkout and checkout.dirty:
        store.client.log_text(run.info.run_id, provenance.changes_text(checkout), "changes.patch")


def _log_dataset(result: Result, digest: str, store: Store, run: "Run") -> None:
    """The corpus as an input of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": paths.PREPARED.as_posix()})
    dataset = Dataset(name=result.params.corpus.name, digest=digest, source_type="local", source=source)
    tag = InputTag(key="mlflow.data.context", value="training and evaluation")
    store.client.log_inputs(run.info.run_id, [DatasetInput(dataset, [tag])])


def _log_training(result: Result, store: Store, run: "Run") -> None:
    """Curves over updates, the best epoch's numbers, the two files."""
    assert result.training_summary is not None
    _log_missing(store, run, _curve_points(result.history_file))
    _log_values(store, run, result.training_summary, "training")
    _log_files(store, run, [result.history_file, result.training_report / "summary.json"], "training")


def _log_scores(result: Result, store: Store, run: "Run") -> None:
    """Every metric of the test set; dvc.lock, which by now names the data and the model that they came from."""
    assert result.scores is not None
    _log_values(store, run, result.scores, "scores")
    _log_files(store, run, [result.scores_file], "scores")
    if paths.LOCK.exists():
        store.client.log_artifact(run.info.run_id, str(paths.LOCK))


def _log_attention(result: Result, store: Store, run: "Run") -> None:
    """Statistics and figures of the attention."""
    assert result.attention_summary is not None
    _log_values(store, run, result.attention_summary, "attention")
    _log_files(store, run, [result.attention_report / "summary.json"], "attention")
    figures = result.attention_report / "figures"
    if figures.is_dir():
        store.client.log_artifacts(run.info.run_id, str(figures), "attention/figures")


def _log_values(store: Store, run: "Run", content: Mapping[str, Any], group: str) -> None:
    """Numbers as metrics, texts as tags."""
    from mlflow.entities import RunTag

    own = {key: value for key, value in content.items() if key not in _OWNERS}
    _log_missing(store, run, values.points(own, group))
    tags = [RunTag(key, value) for key, value in values.texts(own, group).items()]
    if tags:
        store.client.log_batch(run.info.run_id, tags=tags)


def _log_missing(store: Store, run: "Run", points: Iterable[values.Point]) -> None:
    """Log the points whose step the run has not yet: live curves may have sent some, an interrupted call others."""
    from mlflow.entities import Metric

    have: dict[str, set[int]] = {}
    missing = []
    for name, step, value in points:
        if name not in have:
            known = name in run.data.metrics
            history = store.client.get_metric_history(run.info.run_id, name) if known else []
            have[name] = {metric.step for metric in history}
        if step not in have[name]:
            missing.append(Metric(name, value, run.info.start_time, step))
    store.log_metrics(run.info.run_id, missing)


def _log_files(store: Store, run: "Run", sources: Iterable[Path], folder: str) -> None:
    for source in sources:
        store.client.log_artifact(run.info.run_id, str(source), folder)


def _curve_points(history: Path) -> Iterator[values.Point]:
    """The columns of history.csv over updates."""
    for row in csv.DictReader(files.read_lines(history)):
        updates = int(row.pop("updates"))
        for column, value in row.items():
            if value:
                yield values.Point(f"{CURVE}/{column}", updates, float(value))


def _dataset_digest() -> str | None:
    """DVC's md5 of the prepared corpus, from dvc.lock; without it a hash of the files, and None without them."""
    locked = load_yaml(paths.LOCK) if paths.LOCK.exists() else None
    for stage in ((locked or {}).get("stages") or {}).values():
        for out in stage.get("outs", []):
            if out.get("path") == paths.PREPARED.as_posix() and out.get("md5"):
                return str(out["md5"])[:_DIGEST_LIMIT]
    return identity.content_hash(paths.PREPARED)[:_DIGEST_LIMIT] if paths.PREPARED.is_dir() else None


def _digest(sources: Iterable[Path]) -> str:
    """One hash over the bytes of several files."""
    return hashlib.sha256("".join(files.sha256(source) for source in sources).encode("ascii")).hexdigest()

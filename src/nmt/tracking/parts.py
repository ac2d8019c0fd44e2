"""What a run consists of: each part is logged once, and a tag of the run remembers the bytes it was logged from."""

import csv
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt import files, identity, lockfile, paths
from nmt.tracking import model, provenance, spool, values
from nmt.tracking.result import Result
from nmt.tracking.store import Curves, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

CURVE = "curve/"
HEADLINE = ("bleu", "chrf")
"""Scores that stand under their bare names, too, with `dev_loss`: the columns that one wants in a table of runs."""
ANALYSIS = "word_attention"
"""The group of the attention report's hundred numbers: MLflow draws groups by name, and curves are to come first."""
CHANGES = "changes.patch"
HYPOTHESES = "hypotheses.txt"
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
    changes: bool = False
    """Whether other bytes may follow under the same id: more points of a curve, a newer view of other parts."""

    @property
    def tag(self) -> str:
        return f"logged.{self.name}"

    def due(self, run: "Run") -> bool:
        """Whether the run lacks it, or has older bytes of what changes."""
        logged = run.data.tags.get(self.tag)
        return logged is None or (self.changes and logged != self.digest)

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
    if (points := spool.place_of(result.training_id)).exists():
        yield Part("live", _digest([points]), partial(_log_live, points), result=False, changes=True)
    if result.scores is not None:
        yield Part("scores", _digest([result.scores_file]), partial(_log_scores, result))
    if result.attention_summary is not None:
        summary = result.attention_report / "summary.json"
        yield Part("attention", _digest([summary]), partial(_log_attention, result), result=False)
    if result.finished and result.bundle.is_dir():
        digest = identity.content_hash(result.bundle)
        yield Part("model", digest, partial(model.log_model, result))
    if _is_locked(result):
        yield Part("lock", files.sha256(paths.LOCK), partial(_log_lock, result), result=False)


def _log_provenance(store: Store, run: "Run") -> None:
    """params.yaml, the commit, and the local changes if there are any.

    Commit and changes are of one moment: the commit that the run was created with may have had others.
    """
    store.client.log_artifact(run.info.run_id, str(paths.PARAMS))
    checkout = provenance.read_checkout()
    for name, value in (checkout.tags() if checkout else {}).items():
        store.client.set_tag(run.info.run_id, name, value)
    if checkout and checkout.dirty:
        with tempfile.TemporaryDirectory() as scratch:
            files.write_bytes(Path(scratch) / CHANGES, provenance.changes(checkout))
            store.client.log_artifact(run.info.run_id, str(Path(scratch) / CHANGES))


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
    Curves(store, run).add(_curve_points(result.history_file))
    Curves(store, run).add([values.Point("dev_loss", 0, result.training_summary["dev_loss"])])
    _log_values(store, run, result.training_summary, "training")
    _log_files(store, run, [result.history_file, result.training_report / "summary.json"], "training")


def _log_live(points: Path, store: Store, run: "Run") -> None:
    """The points of the training that no other file holds, those that were not sent while it ran."""
    Curves(store, run).add(point for point in spool.read(points)[0] if not point.name.startswith(CURVE))


def _log_scores(result: Result, store: Store, run: "Run") -> None:
    """Every metric of the test set, and the hypotheses that a paired test with another model needs."""
    assert result.scores is not None
    Curves(store, run).add(values.Point(name, 0, result.scores[name]["score"]) for name in HEADLINE)
    _log_values(store, run, result.scores, "scores")
    hypotheses = paths.translations(result.variant, result.seed) / HYPOTHESES
    _log_files(store, run, [result.scores_file, *([hypotheses] if hypotheses.exists() else [])], "scores")


def _log_attention(result: Result, store: Store, run: "Run") -> None:
    """Statistics and figures of the attention."""
    assert result.attention_summary is not None
    _log_values(store, run, result.attention_summary, ANALYSIS)
    _log_files(store, run, [result.attention_report / "summary.json"], "attention")
    figures = result.attention_report / "figures"
    if figures.is_dir():
        store.client.log_artifacts(run.info.run_id, str(figures), "attention/figures")


def _is_locked(result: Result) -> bool:
    """Whether dvc.lock names all that belongs to this result: DVC adds a stage when the stage has ended."""
    if not (paths.LOCK.exists() and result.finished and result.attention_summary is not None):
        return False
    summaries = [result.training_report / "summary.json", result.attention_report / "summary.json"]
    return lockfile.holds(lockfile.parse(files.read_text(paths.LOCK)), [*summaries, result.scores_file])


def _log_lock(result: Result, store: Store, run: "Run") -> None:
    """dvc.lock, and the md5 of the data and of the model as tags: by them DVC's cache finds the very bytes."""
    from mlflow.entities import RunTag

    store.client.log_artifact(run.info.run_id, str(paths.LOCK))
    outs = lockfile.outputs(lockfile.parse(files.read_text(paths.LOCK)))
    md5s = {Path(path): md5 for one in outs.values() for path, md5 in one.items()}
    kept = [path for path in md5s if paths.DATA in path.parents or path == result.bundle]
    tags = [RunTag(f"dvc.md5/{path.as_posix()}", md5s[path]) for path in kept]
    store.client.log_batch(run.info.run_id, tags=tags)


def _log_values(store: Store, run: "Run", content: Mapping[str, Any], group: str) -> None:
    """Numbers as metrics, texts as tags."""
    from mlflow.entities import RunTag

    own = {key: value for key, value in content.items() if key not in _OWNERS}
    Curves(store, run).add(values.points(own, group))
    tags = [RunTag(key, value) for key, value in values.texts(own, group).items()]
    if tags:
        store.client.log_batch(run.info.run_id, tags=tags)


def _log_files(store: Store, run: "Run", sources: Iterable[Path], folder: str) -> None:
    for source in sources:
        store.client.log_artifact(run.info.run_id, str(source), folder)


def _curve_points(history: Path) -> Iterator[values.Point]:
    """The columns of history.csv over updates."""
    for row in csv.DictReader(files.read_lines(history)):
        updates = int(row.pop("updates"))
        for column, value in row.items():
            if value:
                yield values.Point(f"{CURVE}{column}", updates, float(value))


def _dataset_digest() -> str | None:
    """DVC's md5 of the prepared corpus, from dvc.lock; without it a hash of the files, and None without them."""
    locked = lockfile.outputs(lockfile.parse(files.read_text(paths.LOCK))) if paths.LOCK.exists() else {}
    for written in locked.values():
        if md5 := written.get(paths.PREPARED.as_posix()):
            return md5[:_DIGEST_LIMIT]
    return identity.content_hash(paths.PREPARED)[:_DIGEST_LIMIT] if paths.PREPARED.is_dir() else None


def _digest(sources: Iterable[Path]) -> str:
    """One hash over the bytes of several files."""
    return hashlib.sha256("".join(files.sha256(source) for source in sources).encode("ascii")).hexdigest()

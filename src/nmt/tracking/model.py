"""The translation model in MLflow: logged as code and a safetensors bundle, registered, and fetched again."""

import atexit
import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nmt
from nmt import files, paths
from nmt.decoding import Decoding
from nmt.errors import UserError
from nmt.tracking import place
from nmt.tracking.card import model_card
from nmt.tracking.result import Result
from nmt.tracking.store import Store, existing_client

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

REQUIREMENTS = "filelock mlflow numpy OpenCC pandas pydantic ruamel.yaml safetensors sentencepiece torch".split()
"""What the served model imports; the versions installed here are pinned in it."""
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
CHAMPION = "champion"
_RESERVED_ALIAS = re.compile(rf"v\d+|latest|{CHAMPION}", re.IGNORECASE)


def registered_name(source: str, target: str) -> str:
    """The name under which all models of one direction are registered."""
    return f"nmt-{source}-{target}"


def alias(variant: str) -> str:
    """The variant's name, told apart from the names that MLflow keeps for itself and from the champion's."""
    return f"variant-{variant}" if _RESERVED_ALIAS.fullmatch(variant) else variant


def log_model(result: Result, store: Store, run: "Run") -> None:
    """Log the bundle and register it as the newest version of its variant; a version of this run is not made twice."""
    name = registered_name(result.params.corpus.source, result.params.corpus.target)
    versions = list(store.client.search_model_versions(f"run_id = '{run.info.run_id}'"))
    version = versions[0] if versions else _register(result, name, store, run)
    store.client.set_registered_model_alias(name, alias(result.variant), version.version)


def download_bundle(uri: str) -> Path:
    """The bundle folder of a registered model, such as `models:/nmt-zh-en@attention`, with its decoding settings.

    Raises:
        UserError: mlflow is not there, the store does not answer, or it has no such model.
    """
    address = _ADDRESS.fullmatch(uri)
    if not address:
        raise UserError(f"{uri} names no model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(f"{uri}: mlflow is not installed; install it, or name a bundle's folder instead")
    where, client = place.tracking_uri(), existing_client()
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    name, version, alias_name = address["name"], address["version"], address["alias"]
    try:
        version = version or client.get_model_version_by_alias(name, alias_name).version
        source = f"{client.get_model_version_download_uri(name, str(version))}/artifacts/bundle"
        scratch = _scratch_folder() if place.is_server(where) else None  # local files are used where they lie
        return Path(download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=where))
    except (MlflowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{uri}: {reason} (asked {where}; `nmt publish` registers models there)") from None


def _scratch_folder() -> str:
    """A folder that is deleted when this process ends."""
    folder = tempfile.mkdtemp(prefix="nmt-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _register(result: Result, name: str, store: Store, run: "Run") -> Any:
    """Save the model locally, upload it as a logged model of the run, and make a version of it."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    client, run_id = store.client, run.info.run_id
    tags = {"variant": result.variant, "seed": str(result.seed), "result_id": result.result_id}
    begun = client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")  # and cut off
    logged = (
        begun[0]
        if begun
        else client.create_logged_model(store.experiment_id, "model", run_id, tags, run.data.params, "translation")
    )
    model_id, card = logged.model_id, model_card(result, f"{name}@{alias(result.variant)}")
    record = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    with _saved(result, record, card) as folder:
        client.log_model_artifacts(model_id, str(folder))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    with contextlib.suppress(MlflowException):  # it is there already; if it is not, the next call tells why
        client.create_registered_model(name)
    source = f"models:/{model_id}" if place.is_server(client.tracking_uri) else logged.artifact_location
    return client.create_model_version(name, source, run_id, tags, description=card, model_id=model_id)


@contextlib.contextmanager
def _saved(result: Result, record: Any, card: str) -> Iterator[Path]:
    """A folder with the model as MLflow lays it out."""
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as scratch:
        bundle, folder = Path(scratch) / "bundle", Path(scratch) / "model"
        shutil.copytree(result.bundle, bundle)
        files.write_json(bundle / "decoding.json", Decoding.of(result.params.translate).model_dump())
        files.write_text(Path(scratch) / "model_card.md", card)
        mlflow.pyfunc.save_model(
            path=folder,
            mlflow_model=record,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"bundle": str(bundle), "model_card": str(Path(scratch) / "model_card.md")},
            code_paths=[str(Path(nmt.__file__).parent)],
            pip_requirements=_requirements(),
            signature=_signature(),
            input_example=_example(),
        )
        for cache in folder.rglob("__pycache__"):
            shutil.rmtree(cache)
        yield folder


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = Schema([ColSpec("string", "translation"), ColSpec("double", "score")])
    return ModelSignature(inputs=Schema([ColSpec("string", "source")]), outputs=outputs)


def _example() -> Any:
    """The first two sentences of the dev set, if the corpus is at hand."""
    import pandas as pd

    sentences = paths.prepared_text("dev", "source")
    return pd.DataFrame({"source": files.read_lines(sentences)[:2] if sentences.exists() else ["1 2 3"]})


def _requirements() -> list[str]:
    """Pinned to what is installed here; a local version such as torch's +cpu is on no index."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]

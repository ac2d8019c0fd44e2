"""A trained model as a folder that describes itself: weights, configuration, subword models. No pickle anywhere.

model.safetensors    float32 weights
config.json          what is needed to build the model and to check that the subword models are its own
source.model         SentencePiece
target.model
SHA256SUMS           the sha256 of the other four, so that not a bit of them changes unnoticed
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError, field_validator
from torch import Tensor

from nmt.config import Language, Model, Section, UnicodeForms, VocabularySize
from nmt.errors import UserError
from nmt.files import check_seal, fresh_folder, read_json, sha256, write_bytes, write_json
from nmt.model.seq2seq import Seq2Seq
from nmt.records import explain
from nmt.subwords import Subwords

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_SHOWN = 5
FILES = (WEIGHTS, CONFIG, "source.model", "target.model")
_YOUNGER = {"tie_embeddings": False, "residual": False, "word_query": False, "lexical": False}
_YOUNGER_RATES = {"word": 0.0}
"""What parameters younger than the format are in a bundle that does not name them: it was made without."""


class Languages(Section):
    source: Language
    target: Language


class Sizes(Section):
    source: VocabularySize
    target: VocabularySize


class Digests(Section):
    source: str
    target: str


class BundleConfig(Section):
    """The content of `config.json`."""

    format: Literal[2]
    attention: Literal["none", "additive", "dot", "general"]
    model: Model
    vocabulary: Sizes
    languages: Languages
    unicode: UnicodeForms
    tokenizer_sha256: Digests

    @field_validator("model", mode="before")
    @classmethod
    def _complete(cls, model: Any) -> Any:
        """The model section with the parameters that came after the bundle."""
        if not isinstance(model, dict):
            return model
        rates = model.get("dropout")
        return {**_YOUNGER, **model, "dropout": _YOUNGER_RATES | rates if isinstance(rates, dict) else rates}


@dataclass(frozen=True)
class Bundle:
    """A model that is ready to translate."""

    model: Seq2Seq
    config: BundleConfig
    source: Subwords
    target: Subwords


def save_bundle(
    folder: Path, config: BundleConfig, weights: Mapping[str, Tensor], subword_models: Mapping[str, Path]
) -> None:
    """Write a bundle; the folder appears whole or not at all."""
    with fresh_folder(folder) as draft:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_bytes(draft / WEIGHTS, safetensors.torch.save(tensors))
        write_json(draft / CONFIG, config.model_dump())
        for side, path in subword_models.items():
            shutil.copyfile(path, draft / f"{side}.model")


def load_bundle(folder: Path, device: torch.device) -> Bundle:
    """Load and check a bundle; whatever does not fit together is a UserError."""
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds no model ({CONFIG} is missing); "
            "`make repro` makes it (or `dvc pull`, where a DVC remote is set)"
        )
    try:
        config = BundleConfig.model_validate(read_json(folder / CONFIG))
    except ValidationError as error:
        raise UserError(
            f"{folder / CONFIG}: {explain(error)}; the bundle was made by another version or edited"
        ) from None
    source, target = (_subwords(folder, side, config) for side in ("source", "target"))
    check_seal(folder, FILES)
    model = _load_model(config, folder / WEIGHTS)
    return Bundle(model.to(device).eval(), config, source, target)


def _subwords(folder: Path, side: str, config: BundleConfig) -> Subwords:
    """One side's subword model, if it is the one that the model was trained with."""
    path = folder / f"{side}.model"
    if not path.is_file():
        raise UserError(f"{path} is missing: the bundle is incomplete; restore it with `dvc checkout`")
    expected = getattr(config.tokenizer_sha256, side)
    if sha256(path) != expected:
        raise UserError(
            f"{path} is not the subword model that these weights were trained with (sha256 {expected[:12]}…); "
            "restore it with `dvc checkout`"
        )
    subwords, size = Subwords.load(path), getattr(config.vocabulary, side)
    if subwords.size != size:
        raise UserError(f"{path} has {subwords.size} pieces, its {CONFIG} says {size}; restore it with `dvc checkout`")
    return subwords


def _load_model(config: BundleConfig, path: Path) -> Seq2Seq:
    """The model with its weights; no memory is taken for one whose configuration promises more than the file holds."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it with `dvc checkout`") from None
    with torch.device("meta"):
        model = _empty_model(config)
    expected = {name: (parameter.shape, parameter.dtype) for name, parameter in model.named_parameters()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        shown = f"{', '.join(wrong[:_SHOWN])}{' and others' if len(wrong) > _SHOWN else ''}"
        raise UserError(f"{path} does not fit its {CONFIG}: {shown} differ; restore it with `dvc checkout`")
    model = _empty_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model


def _empty_model(config: BundleConfig) -> Seq2Seq:
    return Seq2Seq(config.model, config.attention, config.vocabulary.source, config.vocabulary.target)

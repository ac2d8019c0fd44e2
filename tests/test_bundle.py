"""A bundle describes itself and is refused when it does not fit together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt.bundle import BundleConfig, load_bundle, save_bundle
from nmt.errors import UserError
from nmt.files import read_json, sha256, write_bytes, write_json
from nmt.model.seq2seq import Seq2Seq
from nmt.subwords import Subwords, train_subwords

from .models import model_settings

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of a tiny untrained model."""
    models = {}
    for side, line in (("source", "eins zwei drei vier"), ("target", "one two three four")):
        models[side] = tmp_path / f"{side}.model"
        write_bytes(
            models[side], train_subwords([line] * 20, kind="unigram", size=300, character_coverage=1.0, spaced=True)
        )
    sizes = {side: Subwords.load(path).size for side, path in models.items()}
    model = Seq2Seq(model_settings(), "additive", sizes["source"], sizes["target"])
    model.initialize(1)
    config = BundleConfig.model_validate(
        {
            "format": 1,
            "attention": "additive",
            "model": model_settings().model_dump(),
            "vocabulary": sizes,
            "languages": {"source": "de", "target": "en"},
            "unicode": {"source": "NFKC", "target": "NFC"},
            "tokenizer_sha256": {side: sha256(path) for side, path in models.items()},
        }
    )
    save_bundle(tmp_path / "bundle", config, dict(model.named_parameters()), models)
    return tmp_path / "bundle"


def test_a_bundle_comes_back(folder: Path) -> None:
    """Weights, configuration and subword models are those that were saved, in four files and no pickle."""
    bundle = load_bundle(folder, CPU)
    original = Seq2Seq(model_settings(), "additive", bundle.source.size, bundle.target.size)
    original.initialize(1)
    for (name, one), (_, other) in zip(original.named_parameters(), bundle.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert bundle.config.languages.source == "de"
    assert bundle.source.decode(bundle.source.encode(["zwei drei"])) == ["zwei drei"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.model",
        "target.model",
    ]
    assert not bundle.model.training


def test_the_same_weights_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Saving what was loaded writes identical files."""
    bundle = load_bundle(folder, CPU)
    models = {side: folder / f"{side}.model" for side in ("source", "target")}
    save_bundle(tmp_path / "again", bundle.config, dict(bundle.model.named_parameters()), models)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def truncate(folder: Path) -> None:
    """Cut the end off the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lie_in_the_header(folder: Path) -> None:
    """Claim an absurd length for the header of the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def swap_tokenizers(folder: Path) -> None:
    """Put the target's subword model in the source's place."""
    (folder / "source.model").write_bytes((folder / "target.model").read_bytes())


def change(key: str, value: object) -> Callable[[Path], None]:
    """What sets one key of the configuration to another value."""

    def apply(folder: Path) -> None:
        write_json(folder / "config.json", read_json(folder / "config.json") | {key: value})

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.safetensors cannot be read"),
        (lie_in_the_header, "model.safetensors cannot be read"),
        (swap_tokenizers, "source.model is not the subword model"),
        (lambda folder: (folder / "target.model").unlink(), "target.model is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (change("format", 2), "config.json: format"),
        (change("attention", "self"), "config.json: attention"),
        (change("attention", "general"), "does not fit its config.json"),
        (change("vocabulary", {"source": 77, "target": 88}), "does not fit its config.json"),
        (change("surprise", 1), "config.json: surprise"),
    ],
)
def test_a_damaged_bundle_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    """Each kind of damage gives one error that names the file."""
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_bundle(folder, CPU)

"""A bundle describes itself and is refused when it does not fit together."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nmt.bundle import BundleConfig, load_bundle, save_bundle
from nmt.errors import UserError
from nmt.files import SEAL, read_json, seal, sha256, write_bytes, write_json
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
            "format": 2,
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
    """Weights, configuration and subword models are those that were saved, in four sealed files and no pickle."""
    bundle = load_bundle(folder, CPU)
    original = Seq2Seq(model_settings(), "additive", bundle.source.size, bundle.target.size)
    original.initialize(1)
    for (name, one), (_, other) in zip(original.named_parameters(), bundle.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert bundle.config.languages.source == "de"
    assert bundle.source.decode(bundle.source.encode(["zwei drei"])) == ["zwei drei"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
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


def test_a_bundle_from_before_a_parameter_is_one_without(folder: Path) -> None:
    """A model that was made before word dropout, residual connections and other younger ways is what it was."""
    expected = load_bundle(folder, CPU)
    content = read_json(folder / "config.json")
    for younger in ("tie_embeddings", "residual", "word_query", "lexical"):
        del content["model"][younger]
    del content["model"]["dropout"]["word"]
    write_json(folder / "config.json", content)
    seal(folder)
    bundle = load_bundle(folder, CPU)
    assert bundle.config == expected.config
    assert bundle.config.model == model_settings()


def truncate(folder: Path) -> None:
    """Cut the end off the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lie_in_the_header(length: int) -> Callable[[Path], None]:
    """What claims this length for the header of the weights."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
        seal(folder)

    return apply


def lie_about_offsets(*offsets: int) -> Callable[[Path], None]:
    """What claims that the first tensor stands between these places of the file."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header[next(name for name in header if name != "__metadata__")]["data_offsets"] = offsets
        changed = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
        seal(folder)

    return apply


def half_precision(folder: Path) -> None:
    """Keep the weights in another type."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.half() for name, tensor in safetensors.torch.load_file(path).items()}
    path.write_bytes(safetensors.torch.save(tensors))
    seal(folder)


def flip_a_weight(folder: Path) -> None:
    """Change the last bit of the last weight: a slightly other model."""
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


def swap_tokenizers(folder: Path) -> None:
    """Put the target's subword model in the source's place."""
    (folder / "source.model").write_bytes((folder / "target.model").read_bytes())


def change(key: str, value: object) -> Callable[[Path], None]:
    """What sets one key of the configuration to another value, as somebody would who also seals the folder anew."""

    def apply(folder: Path) -> None:
        path, content = folder / "config.json", read_json(folder / "config.json")
        section = content
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = value
        write_json(path, content)
        seal(folder)

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.safetensors is not as it was written"),
        (flip_a_weight, "model.safetensors is not as it was written"),
        (half_precision, "does not fit its config.json"),
        *(
            (lie_in_the_header(length), "model.safetensors cannot be read")
            for length in (0, 1, 10**6, 2**63, 2**64 - 1)
        ),
        *(
            (lie_about_offsets(*offsets), "model.safetensors cannot be read")
            for offsets in ((0, 2**40), (2**63, 2**63 + 4), (4, 0), (0, 4))
        ),
        (swap_tokenizers, "source.model is not the subword model"),
        (lambda folder: (folder / "target.model").unlink(), "target.model is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda folder: (folder / SEAL).unlink(), "does not name model.safetensors"),
        (lambda folder: (folder / SEAL).write_text(""), "does not name model.safetensors"),
        (lambda folder: (folder / SEAL).write_text("x"), "SHA256SUMS is damaged"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not as it was written"),
        (change("format", 1), "config.json: format"),
        (change("model.encoder.hidden_size", 10**9), "config.json: model.encoder.hidden_size"),
        (change("model.encoder.hidden_size", 65_536), "does not fit its config.json"),
        (change("languages.source", "../.."), "config.json: languages.source"),
        (change("attention", "self"), "config.json: attention"),
        (change("attention", "general"), "does not fit its config.json"),
        (change("vocabulary", {"source": 77, "target": 88}), "has [0-9]+ pieces, its config.json says 77"),
        (change("surprise", 1), "config.json: surprise"),
        (change("model.surprise", 1), "config.json: model.surprise"),
        (change("model.dropout", None), "config.json: model.dropout"),
    ],
)
def test_a_damaged_bundle_is_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    """Each kind of damage gives one error that names the file."""
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_bundle(folder, CPU)

"""`params.yaml` is read strictly: what is wrong is said in one line that names the key and the nearest known one."""

import copy
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from nmt.config import Params, Section, load_params, load_yaml, parse_params
from nmt.errors import UserError
from tests.project import ROOT

DEFAULT = load_yaml(ROOT / "params.yaml")
ABSENT = object()


def changed(key: str, value: object) -> dict[str, Any]:
    """The default params with one dotted key set, or taken away."""
    values: dict[str, Any] = copy.deepcopy(DEFAULT)
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return values


def sections(model: Any = Params, place: str = "") -> dict[str, Any]:
    """Every section of the params with its dotted name, the whole first."""
    found = {place: model}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= sections(field.annotation, f"{place}.{name}".strip("."))
    return found | ({"variants.plain": get_args(model.model_fields["variants"].annotation)[1]} if not place else {})


SECTIONS = sections()
LEAVES = [
    f"{place}.{name}".strip(".")
    for place, section in SECTIONS.items()
    for name in section.model_fields
    if f"{place}.{name}".strip(".") not in SECTIONS and name != "variants"
]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.lerning_rate", 0.1, "params.yaml: unknown key 'train.lerning_rate'; did you mean 'learning_rate'?"),
        ("trian", {}, "params.yaml: unknown key 'trian'; did you mean 'train'?"),
        ("variants.plain.atention", "dot", "unknown key 'variants.plain.atention'; did you mean 'attention'?"),
        ("prepare.unicode.zzz", 1, "unknown key 'prepare.unicode.zzz'; known here: source, target"),
        ("model.encoder.layers", ABSENT, "params.yaml: missing key 'model.encoder.layers'"),
        ("seeds", ABSENT, "params.yaml: missing key 'seeds'"),
        ("train.max_epochs", "12", "params.yaml: train.max_epochs: input should be a valid integer, got '12'"),
        ("train.max_epochs", 2.5, "train.max_epochs: input should be a valid integer"),
        ("train.max_epochs", True, "train.max_epochs: input should be a valid integer, got True"),
        ("train.max_epochs", 0, "train.max_epochs: input should be greater than 0, got 0"),
        ("train.learning_rate", "1e-3", "train.learning_rate: input should be a valid number, got '1e-3'"),
        ("train.learning_rate", float("nan"), "train.learning_rate: input should be"),
        ("train.learning_rate", float("inf"), "train.learning_rate: input should be"),
        ("train.betas", [0.9], "train.betas: must be two numbers in [0, 1)"),
        ("train", None, "train: input should be a valid dictionary"),
        ("model.cell", "rnn", "model.cell: input should be 'gru' or 'lstm', got 'rnn'"),
        ("model.tie_output", "yes", "model.tie_output: input should be a valid boolean, got 'yes'"),
        ("variants.plain.attention", "bahdanau", "variants.plain.attention: input should be 'none'"),
        ("variants", {}, "variants: dictionary should have at least 1 item"),
        ("variants.a/b", {"attention": "none"}, "variants.a/b: string should match pattern"),
        ("seeds", [1, 2, 1], "seeds: [1, 2, 1] names a seed twice"),
        ("translate.joined", [2, 3, 2], "translate.joined: [2, 3, 2] names a number twice"),
        ("evaluate.frequency_classes", [1, 5, 5], "[1, 5, 5] must rise from each number to the next"),
        ("evaluate.frequency_classes", [5, 1], "[5, 1] must rise from each number to the next"),
        ("seeds", [2**31], "seeds.0: input should be less than 2147483648, got 2147483648"),
        ("ensembles", ["attention"], "ensembles: ['attention'] need several models of a variant, but seeds is [1]"),
        ("ensembles", ["attantion"], "ensembles: 'attantion' is not a key of variants: plain, attention"),
        ("ensembles", ["plain", "plain"], "ensembles: ['plain', 'plain'] names a variant twice"),
        ("translate.coverage_penalty", -0.1, "translate.coverage_penalty: input should be greater than or equal to 0"),
        ("seeds", [], "seeds: list should have at least 1 item"),
        ("compare.baseline", "plian", "compare.baseline is 'plian', which is not a key of variants: plain, attention"),
        ("translate.n_best", 9, "translate: n_best is 9, but a beam of 5 holds no more than that many"),
        ("model.tie_embeddings", True, "model.tie_embeddings: source and target have other pieces; set tokenize.joint"),
        (
            "tokenize.joint",
            True,
            "tokenize: a joint model is one for both sides: source and target must ask for the same",
        ),
        ("corpus.source", "Chinese", "corpus.source: string should match pattern"),
    ],
)
def test_a_fault_is_one_clear_line(key: str, value: object, message: str) -> None:
    """The message names the file, the whole key, what is allowed there and what was found."""
    with pytest.raises(UserError) as caught:
        parse_params(changed(key, value), "params.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_listed_at_once() -> None:
    """Two mistakes take one round, not two."""
    values = changed("train.max_epochs", "many") | {"extra": 1}
    with pytest.raises(UserError) as caught:
        parse_params(values, "params.yaml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("place", SECTIONS)
def test_every_section_is_strict(place: str) -> None:
    """A key that no code reads is refused wherever it stands."""
    key = f"{place}.no_such_key".strip(".")
    with pytest.raises(UserError, match=f"unknown key '{key}'"):
        parse_params(changed(key, 1), "params.yaml")


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_needed(key: str) -> None:
    """The code has no defaults: what is not in params.yaml is missing."""
    with pytest.raises(UserError, match=f"missing key '{key}'"):
        parse_params(changed(key, ABSENT), "params.yaml")


@pytest.mark.parametrize("key", LEAVES)
@pytest.mark.parametrize("value", [None, {}, {"a": 1}, b"1"], ids=repr)
def test_every_key_is_typed(key: str, value: object) -> None:
    """Neither nothing, nor a mapping, nor bytes are right anywhere among the values."""
    with pytest.raises(UserError, match=key):
        parse_params(changed(key, value), "params.yaml")


def test_no_field_has_a_default() -> None:
    """DVC cannot see a default."""
    assert not [
        name for section in SECTIONS.values() for name, field in section.model_fields.items() if not field.is_required()
    ]


def test_no_field_is_optional() -> None:
    """A null would be a hidden default."""
    annotations = [field.annotation for section in SECTIONS.values() for field in section.model_fields.values()]
    assert not [kind for kind in annotations if isinstance(kind, UnionType) and type(None) in get_args(kind)]


def test_sections_are_frozen() -> None:
    """Nobody changes a number on its way."""
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.train.max_epochs = 3  # type: ignore[misc]


def test_an_unknown_variant_is_named() -> None:
    """A stage called by hand with a wrong name says what there is."""
    with pytest.raises(UserError, match="no variant 'dot'; there are plain, attention"):
        load_params(ROOT / "params.yaml").variant("dot")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-05", 1e-05), ("1e-3", 0.001), ("0.00001", 1e-05), ("1", 1), ("1.0", 1.0)]
)
def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path, text: str, value: float) -> None:
    """`dvc exp run -S train.learning_rate=0.00001` writes 1e-05, which YAML 1.1 reads as a string."""
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"learning_rate: \S+", f"learning_rate: {text}", (ROOT / "params.yaml").read_text()))
    assert load_params(path).train.learning_rate == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [1, 2", "is not YAML"),
        (b"a: 1\na: 2\n", "is not YAML"),
        (b"- 1\n", "holds no mapping of sections"),
        (b"", "holds no mapping of sections"),
        (b"a: \xff\n", "is not UTF-8"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    """What is no mapping in YAML is answered with the file's name and the reason."""
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So that a call from the wrong folder is understood."""
    with pytest.raises(UserError, match=r"params\.yaml does not exist here; go to the repository's root"):
        load_params(tmp_path / "params.yaml")

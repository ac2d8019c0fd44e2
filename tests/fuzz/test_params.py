"""Any YAML as `params.yaml` and as the catalogue of corpora."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nmt.config import Params, load_params, load_yaml
from nmt.corpora import Corpus, load_corpus
from nmt.errors import UserError
from tests.fuzz.harness import REFUSED, attempt, damaged, fuzzed
from tests.project import ROOT

PARAMS = (ROOT / "params.yaml").read_bytes()
CATALOGUE = (ROOT / "data" / "corpora.yaml").read_bytes()
DEFAULT = load_yaml(ROOT / "params.yaml")
NAMES = sorted(load_yaml(ROOT / "data" / "corpora.yaml"))

numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 5e-324, float("nan"), float("inf"), -0.0])
)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=20) | st.dates() | st.binary(max_size=8)
keys = st.text(max_size=8) | st.integers() | st.none() | st.booleans() | st.sampled_from(sorted(DEFAULT))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def paths_of(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands, the whole included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(path for key, entry in inside for path in paths_of(entry, (*place, key)))]


PLACES = paths_of(DEFAULT)[1:]


def read(path: Path, content: bytes) -> Params | object:
    """What the params are, if these are some."""
    path.write_bytes(content)
    return attempt(load_params, path)


def dumped(path: Path, value: Any) -> bytes:
    """A value as YAML."""
    YAML(typ="safe", pure=True).dump(value, path)
    return path.read_bytes()


@fuzzed(few=25)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | damaged(PARAMS))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Bytes, text, and the real file damaged somewhere: refused, or the params that a YAML reader finds there."""
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    found = read(path, content)
    if found is not REFUSED:
        assert isinstance(found, Params)
        assert found.model_dump() == load_yaml(path)


@fuzzed(few=25)
@given(value=values)
def test_any_yaml(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    """Whatever YAML can say, other than params, is refused."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    assert read(path, dumped(path, value)) is REFUSED


@fuzzed(few=40)
@given(place=st.sampled_from(PLACES), value=values, how=st.sampled_from(["set", "remove", "add", "rename"]))
def test_real_params_changed_anywhere(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any, how: str
) -> None:
    """Another value, none, one too many: refused, or taken exactly as it stands there."""
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    params = copy.deepcopy(DEFAULT)
    section = params
    for key in place[:-1]:
        section = section[key]
    if how == "set":
        section[place[-1]] = value
    elif how == "remove":
        del section[place[-1]]
    elif isinstance(section, dict):
        section[str(value)[:10] if how == "rename" else "surprise"] = (
            section.pop(place[-1]) if how == "rename" else value
        )
    found = read(path, dumped(path, params))
    if found is not REFUSED:
        assert isinstance(found, Params)
        assert found.model_dump() == load_yaml(path)


@fuzzed(few=25)
@given(content=damaged(CATALOGUE), name=st.sampled_from(NAMES))
def test_a_damaged_catalogue(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    """An entry is refused, or fits together, and none of its files leads elsewhere."""
    path = tmp_path_factory.getbasetemp() / "corpora.yaml"
    path.write_bytes(content)
    found = attempt(load_corpus, name, "zh" if "zh" in name or name == "local" else "de", "en", path)
    if found is not REFUSED:
        assert isinstance(found, Corpus)
        assert_inside(found)


@fuzzed(few=25)
@given(
    key=st.sampled_from(["path", "url", "package", "member", "sha256"]),
    value=values | st.text(alphabet="./:@\\~ahtpfile\0"),
)
def test_any_pin(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    """Where a file comes from: refused, or a place on the web, in the package index or below this folder."""
    path = tmp_path_factory.getbasetemp() / "pins.yaml"
    entries = load_yaml(ROOT / "data" / "corpora.yaml")
    (pin,) = entries["local"]["files"].values()
    if key in ("url", "package"):
        del pin["path"]
    pin[key] = value
    path.write_bytes(dumped(path, entries))
    found = attempt(load_corpus, "local", "zh", "en", path)
    if found is not REFUSED:
        assert isinstance(found, Corpus)
        assert_inside(found)


def assert_inside(corpus: Corpus) -> None:
    """All files of a corpus lie in the folder that they are put into, and come from where files may come from."""
    for name, pin in corpus.files.items():
        assert "/" not in name
        assert name not in (".", "..")
        assert pin.url is None or pin.url.startswith(("http://", "https://"))
        assert pin.path is None or not (pin.path.startswith("/") or ".." in pin.path.split("/"))


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 5_000,
        "".join(" " * i + "a:\n" for i in range(800)),
        "a: 2001-99-99\n",
        "a: !!int foo\n",
        "a: !!int '_'\n",
        "a: !!float foo\n",
        "a: !!bool foo\n",
        f"seeds: [{'9' * 5_000}]\n",
        r'a: "\U00110000"',
        "a: !!python/object/apply:os.system [id]\n",
        f"{LAUGHS}train: *a9\nseeds: *a9\nmodel: {{cell: *a9}}\n",
        "train: &a [*a]\n",
    ],
    ids=[
        "brackets",
        "indents",
        "day 99",
        "int",
        "underscore",
        "float",
        "bool",
        "digits",
        "escape",
        "code",
        "laughs",
        "loop",
    ],
)
def test_hostile_yaml(tmp_path: Path, content: str) -> None:
    """What breaks YAML readers, or fills the memory, is one short error."""
    (tmp_path / "params.yaml").write_text(content)
    assert attempt(load_params, tmp_path / "params.yaml") is REFUSED


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "/etc/passwd"),
        ("path", "../elsewhere/text.tsv"),
        ("path", "data/../../text.tsv"),
        ("path", "a\0b"),
        ("url", "file:///etc/passwd"),
        ("url", "ftp://example.org/text.tsv"),
        ("url", "http://user:password@example.org/text.tsv"),
        ("url", "http://example.org/"),
        ("url", "http://example.org/.."),
        ("url", "http://[::1/text.tsv"),
        ("url", "//example.org/text.tsv"),
        ("package", "--index-url=http://example.org==1"),
        ("package", "git+https://example.org/x==1"),
        ("sha256", 5),
        ("sha256", True),
        ("sha256", "ABC"),
        ("sha256", ["0" * 64]),
    ],
)
def test_a_hostile_pin(tmp_path: Path, key: str, value: Any) -> None:
    """Other protocols, passwords, places outside the repository and checksums that are none are refused by name."""
    entries = load_yaml(ROOT / "data" / "corpora.yaml")
    (pin,) = entries["local"]["files"].values()
    if key in ("url", "package"):
        del pin["path"]
        pin["member"] = "a"
    pin[key] = value
    dumped(tmp_path / "corpora.yaml", entries)
    with pytest.raises(UserError, match=r"corpora\.yaml: local\.files\.local\.tsv"):
        load_corpus("local", "zh", "en", tmp_path / "corpora.yaml")

"""A preset sets all that makes a recipe, whatever was set before, and nothing else of `params.yaml`."""

import re
import shutil
from pathlib import Path

import pytest

from nmt import paths, presets
from nmt.commands import main
from nmt.config import load_params, load_yaml
from nmt.errors import UserError
from nmt.leaderboard import leaves

from .project import ROOT


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's parameters and presets."""
    shutil.copy(ROOT / paths.PARAMS, tmp_path)
    shutil.copytree(ROOT / paths.PRESETS, tmp_path / paths.PRESETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def presets_in(folder: Path) -> list[str]:
    """The presets' names."""
    return sorted(path.stem for path in (folder / paths.PRESETS).glob("*.yaml"))


def comments(text: str) -> list[str]:
    """All comments, without the spaces before them."""
    return re.findall(r"#.*", text)


def test_the_committed_parameters_are_the_quick_preset() -> None:
    """Byte for byte, so going back to it leaves no difference."""
    assert presets.applied("quick") == paths.PARAMS.read_text()


def test_quick_names_all_that_makes_a_recipe() -> None:
    """Every key that decides what the models are and what they write, so that no other experiment's value stays."""
    rest = {
        "variants", "runtime", "evaluate", "analyze_attention", "compare", "report", "tracking", "promote",
        "train.devices", "train.accumulate", "train.cuda_graphs",
    }  # fmt: skip
    named = {key for key, _ in leaves(presets.overrides("quick"))}
    known = {key for key, _ in leaves(load_yaml(paths.PARAMS))}
    assert known - named == {key for key in known if key in rest or key.partition(".")[0] in rest}
    assert named <= known


@pytest.mark.parametrize("name", presets_in(ROOT))
def test_what_a_preset_leads_to_does_not_depend_on_what_was_set(name: str) -> None:
    """Another preset, another beam, more seeds: all gone; the machine's own settings stay."""
    changes = [
        ("seeds: [1]      ", "seeds: [1, 2, 3]"),
        ("beam_size: 5", "beam_size: 8"),
        ("device: auto", "device: cpu "),
    ]
    expected = presets.applied(name).replace(*changes[-1])
    for text in [presets.applied(other) for other in presets.names()]:
        for change in changes:
            assert change[0] in text
            text = text.replace(*change)
        paths.PARAMS.write_text(text)
        assert presets.applied(name) == expected


@pytest.mark.parametrize("text", ["", "- 1\n", "train: [\n", "a: 1\na: 2\n"])
def test_parameters_that_are_none_are_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, and left as they are."""
    paths.PARAMS.write_text(text)
    assert main(["preset", "quick"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: params.yaml")
    assert said.count("\n") == 1
    assert paths.PARAMS.read_text() == text


@pytest.mark.parametrize("name", presets_in(ROOT))
def test_a_preset_sets_its_values_and_keeps_the_comments(name: str) -> None:
    """All that it names is there afterwards, all else is as it was; `quick` brings the first values back."""
    before, text = load_params(), paths.PARAMS.read_text()
    assert main(["preset", name]) == 0
    after = load_params().model_dump()
    assert comments(paths.PARAMS.read_text()) == comments(text)

    def check(values: object, old: object, new: object) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            assert old.keys() == new.keys()
            for key in old:
                check(values.get(key) if isinstance(values, dict) else None, old[key], new[key])
        else:
            assert new == (old if values is None else values)

    check(presets.overrides(name), before.model_dump(), after)
    main(["preset", "quick"])
    assert load_params().train == before.train


def test_a_dry_run_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the lines that would."""
    text = paths.PARAMS.read_text()
    assert main(["preset", "multi30k-de-en", "--dry-run"]) == 0
    assert "+corpus" not in capsys.readouterr().out.splitlines()
    assert paths.PARAMS.read_text() == text


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """With what each is for."""
    assert main(["preset"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == presets.names()
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("train: {max_epoch: 3}\n", "presets/bad.yaml: unknown key 'train.max_epoch'; did you mean 'max_epochs'?"),
        ("train: {max_epochs: many}\n", "train.max_epochs: input should be a valid integer, got 'many'"),
        ("- 1\n", "presets/bad.yaml holds no mapping"),
        ("train: [\n", "presets/bad.yaml is not YAML"),
    ],
)
def test_a_wrong_preset_leaves_the_parameters_alone(content: str, reason: str) -> None:
    """It says where and what."""
    text = paths.PARAMS.read_text()
    paths.preset("bad").write_text(content)
    with pytest.raises(UserError, match=re.escape(reason)):
        presets.applied("bad")
    assert main(["preset", "bad"]) == 1
    assert paths.PARAMS.read_text() == text


def test_an_unknown_preset_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest known one."""
    assert main(["preset", "quik"]) == 1
    assert "did you mean 'quick'?" in capsys.readouterr().err


def test_presets_name_only_what_params_has() -> None:
    """Each file is complete YAML whose sections params.yaml has."""
    known = load_yaml(paths.PARAMS)
    assert all(set(presets.overrides(name)) <= set(known) for name in presets.names())

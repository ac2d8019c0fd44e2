"""An id changes when, and only when, DVC would train again."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt import files, identity, paths
from nmt.config import load_params
from nmt.errors import UserError
from tests.synthetic_results import ROOT, make_project, make_training, set_param


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A synthetic project as the current folder."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(path: str, text: str) -> Callable[[], None]:
    return lambda: files.write_text(Path(path), text)


def _param(old: str, new: str) -> Callable[[], None]:
    return lambda: set_param(old, new)


EDITS: dict[str, tuple[Callable[[], None], bool]] = {
    "a training parameter": (_param("learning_rate: 0.002", "learning_rate: 0.003"), True),
    "the same number, written otherwise": (_param("learning_rate: 0.002", "learning_rate: 2e-3"), False),
    "0.0 written as 0": (_param("weight_decay: 0.0", "weight_decay: 0"), False),
    "a comment": (_param("max_epochs: 12", "max_epochs: 12  # a dozen"), False),
    "the variant's own line": (_param("plain: {attention: none}", "plain: {attention: dot}"), True),
    "another variant's line": (_param("attention: {attention: additive}", "attention: {attention: dot}"), False),
    "a variant more": (_param("variants: ", "variants:\n  more: {attention: dot}"), False),
    "a seed more": (_param("seeds: [1]", "seeds: [1, 2]"), False),
    "a used key of a section": (_param("unicode: {source: NFKC", "unicode: {source: NFC"), True),
    "an unused key of that section": (_param("test_pairs: 2000", "test_pairs: 100"), False),
    "a decoding parameter": (_param("beam_size: 5", "beam_size: 6"), False),
    "a module": (_write("src/nmt/training.py", "# other\n"), True),
    "a module of a package": (_write("src/nmt/model/content.py", "# other\n"), True),
    "a file more in a package": (_write("src/nmt/model/more.py", ""), True),
    "compiled code": (_write("src/nmt/model/__pycache__/content.cpython-311.pyc", "x"), False),
    "a module that training does not use": (_write("src/nmt/scoring.py", "# other\n"), False),
    "the same bytes again": (_write("src/nmt/training.py", "# src/nmt/training.py\n"), False),
    "the training data": (_write("data/tokenized/content.py", "# other\n"), True),
    "a folder below the training data": (_write("data/tokenized/below/content.py", "# data/tokenized\n"), True),
}


STATUS = """
import shutil, sys
from pathlib import Path
from dvc.repo import Repo
from tests import test_identity
for name, (edit, _) in test_identity.EDITS.items():
    kept = {path: path.read_bytes() for folder in ("src", "data") for path in Path(folder).rglob("*") if path.is_file()}
    kept[Path("params.yaml")] = Path("params.yaml").read_bytes()
    edit()
    with Repo() as repo:
        print(name, "train@plain-1" in repo.status(["train@plain-1"]), sep="\\t")
    for folder in ("src", "data"):
        shutil.rmtree(folder)
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
"""


def _python(*arguments: str) -> str:
    """Run Python on our code, in the current folder."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def test_dvc_trains_again_after_these_edits(project: Path) -> None:
    """DVC itself says for every edit whether a finished training is still up to date."""
    files.write_bytes(Path(".dvcignore"), (ROOT / ".dvcignore").read_bytes())
    make_training("plain")
    _python("-m", "dvc", "init", "--no-scm", "--quiet")
    _python("-m", "dvc", "commit", "--force", "--quiet", "train@plain-1")
    dvc_says = dict(line.split("\t") for line in _python("-c", STATUS).splitlines())
    assert dvc_says == {name: str(changes) for name, (_, changes) in EDITS.items()}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_id_or_does_not(project: Path, name: str) -> None:
    """The id agrees with DVC, edit by edit."""
    edit, changes = EDITS[name]
    before = identity.training_id("plain", 1)
    edit()
    assert (identity.training_id("plain", 1) != before) == changes


def test_ids_tell_models_apart(project: Path) -> None:
    """Two variants of equal settings, and two seeds, are different trainings; an id is 16 hexadecimal digits."""
    set_param("attention: {attention: additive}", "attention: {attention: none}")
    ids = [identity.training_id(variant, seed) for variant in ("plain", "attention") for seed in (1, 2)]
    assert len(set(ids)) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)
    assert ids[0] == identity.training_id("plain", 1)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("beam_size: 5", "beam_size: 6", True),
        ("joined: [2, 3, 4]", "joined: [2, 3]", True),
        ("length_bins: 5", "length_bins: 6", True),
        ("length_penalty: 1.0", "length_penalty: 1", False),
        ("heatmaps: 12", "heatmaps: 3", False),
        ("experiment: nmt", "experiment: other", False),
    ],
)
def test_result_id_covers_decoding_and_scoring(project: Path, old: str, new: str, changes: bool) -> None:
    """A result is another when it is decoded or scored in another way, not when it is drawn or filed in another way."""
    before = identity.result_id("0" * 16, load_params())
    set_param(old, new)
    assert (identity.result_id("0" * 16, load_params()) != before) == changes
    assert identity.result_id("1" * 16, load_params()) != identity.result_id("0" * 16, load_params())


def test_run_name_has_the_seed_only_where_there_are_several(project: Path) -> None:
    """With one seed, it would say nothing."""
    result_id = "3f9a2c1b00000000"
    assert identity.run_name("attention", 1, result_id, load_params()) == "attention-3f9a2c1b"
    set_param("seeds: [1]", "seeds: [1, 2]")
    assert identity.run_name("attention", 1, result_id, load_params()) == "attention-1-3f9a2c1b"


def test_works_without_dvc(project: Path) -> None:
    """The id of a training is known on a machine that has no DVC."""
    code = "import sys; sys.modules['dvc'] = None; from nmt import identity; print(identity.training_id('plain', 1))"
    assert _python("-c", code).strip() == identity.training_id("plain", 1)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (paths.PIPELINE, "src/nmt/training.py", "src/nmt/traning.py", r"src/nmt/traning.py.*does not exist"),
        (paths.PIPELINE, "prepare.unicode", "prepare.unicoed", r"params.yaml has no key 'prepare.unicoed'"),
        (paths.PIPELINE, "variants.${item.variant}", "variants.${item.varant}", r"train uses \$\{item.varant\}"),
        (paths.PIPELINE, "  train:", "  trian:", r"dvc.yaml has no stage 'train'"),
        (paths.PIPELINE, "- corpus\n      - prepare.unicode", "- other.yaml: [a]", r"may only list names"),
    ],
)
def test_a_broken_pipeline_is_one_clear_error(project: Path, file: Path, old: str, new: str, message: str) -> None:
    """Each fault names the file and the entry."""
    text = files.read_text(file)
    assert old in text
    files.write_text(file, text.replace(old, new))
    with pytest.raises(UserError, match=message):
        identity.training_id("plain", 1)

"""Grids become named trials."""

import subprocess
from pathlib import Path

import pytest

from nmt import experiments
from nmt.errors import UserError
from nmt.experiments import FAILED, MISSING, QUEUED, Trial
from nmt.repository import dvc, git
from tests.serve_process import until


def _names(*settings: str, state: str = "") -> list[str]:
    return [trial.name for trial in experiments.trials(settings, state)]


def test_a_grid_is_every_combination() -> None:
    """In DVC's own notation, ranges included; one name per trial, by which one knows its values."""
    assert experiments.trials(["train.learning_rate=0.003,0.005", "model.dropout.output=0.2"], "") == [
        Trial("learning_rate=0.003,output=0.2", ("train.learning_rate=0.003", "model.dropout.output=0.2")),
        Trial("learning_rate=0.005,output=0.2", ("train.learning_rate=0.005", "model.dropout.output=0.2")),
    ]
    assert _names("translate.beam_size=range(1,4)") == ["beam_size=1", "beam_size=2", "beam_size=3"]
    assert _names("+variants.dot.attention=dot") == ["dot.attention=dot"]


def test_keys_are_as_long_as_tells_them_apart() -> None:
    """Two vocabularies in one grid are not both called `vocabulary`."""
    assert _names("tokenize.source.vocabulary=6000", "tokenize.target.vocabulary=4000") == [
        "source.vocabulary=6000,target.vocabulary=4000"
    ]


def test_another_sweeps_trials_have_other_names() -> None:
    """Or the second would find the first one's experiments done, and train nothing."""
    assert _names("model.encoder.hidden_size=128") == ["encoder.hidden_size=128"]
    assert _names("model.decoder.hidden_size=128") == ["decoder.hidden_size=128"]
    assert _names("model.encoder={hidden_size: 128}") != _names("model.decoder={hidden_size: 128}")


def test_a_name_is_legal_in_git_and_still_unique() -> None:
    """Characters that git refuses are replaced, and a hash keeps two such names apart."""
    one, two = _names("translate.joined=[2,3],{2: 3}")
    assert one.rpartition("-")[0] == "joined=-2,3"
    assert one != two
    for name in (one, two):
        assert not set(name) & set("[]{}~^:?* /\\")


def test_a_changed_workspace_has_names_of_its_own() -> None:
    """So a second sweep after an edit does not take the first one's trials for its own."""
    clean, edited = _names("train.max_epochs=3"), _names("train.max_epochs=3", state="ab12")
    assert clean == ["max_epochs=3"]
    assert edited != clean
    assert edited == _names("train.max_epochs=3", state="ab12")
    assert edited != _names("train.max_epochs=3", state="cd34")


@pytest.mark.parametrize("settings", ["train.max_epochs", "a=[1", "train.max_epochs=3,3"])
def test_what_is_no_grid_is_one_clear_error(settings: str) -> None:
    """The setting stands in it."""
    with pytest.raises(UserError, match=r"not a grid|same point twice"):
        experiments.trials([settings], "")


def test_a_trial_of_another_commit_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's queue keeps what was done at every commit under the same names; only the present commit's counts."""
    monkeypatch.chdir(tmp_path)
    for command in ("git init --quiet", "git config user.name Test", "git config user.email test@example.com"):
        subprocess.run(command.split(), check=True)
    dvc("init", "--quiet")
    Path("params.yaml").write_text("x: 1\n")
    Path("dvc.yaml").write_text("stages: {a: {cmd: 'test ${x} = 1', params: [x]}}\n")

    def commit() -> None:
        git("add", "--all")
        git("commit", "--quiet", "--no-gpg-sign", "--allow-empty", "--message", "All")

    commit()
    trial = Trial("x=2", ("x=2",))
    experiments.enqueue(trial)
    experiments.start_workers(1)
    experiments.wait([trial], 1, lambda _: None)
    assert experiments.states(["x=2"]) == {"x=2": FAILED}
    until(lambda: experiments.workers() == 0)  # one that lives would take what is queued next
    commit()
    assert experiments.states(["x=2"]) == {"x=2": MISSING}
    experiments.forget("x=2")  # there is none to forget
    experiments.enqueue(trial)
    assert experiments.states(["x=2"]) == {"x=2": QUEUED}
    experiments.forget("x=2")
    assert experiments.states(["x=2"]) == {"x=2": MISSING}
    git("checkout", "--quiet", "HEAD~1")
    assert experiments.states(["x=2"]) == {"x=2": FAILED}
    experiments.forget("x=2")
    assert experiments.states(["x=2"]) == {"x=2": MISSING}

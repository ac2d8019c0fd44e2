"""A study: steps that build on each other, each a trial, and the table of what they came to."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from nmt import files, paths, study, study_table
from nmt.commands import study as command
from nmt.config import load_params
from nmt.errors import UserError
from nmt.leaderboard import Snapshot
from tests.project import ROOT

STEPS = """
- name: naive
  variants: [plain, attention]
  seeds: [1, 2]
  set: {train: {average_decay: 0, optimizer: adam}, translate: {ablations: []}}
- name: Averaging, at last
  variants: [attention]
  seeds: [1]
  set: {train: {average_decay: 0.999}}
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a study below the current folder."""
    monkeypatch.chdir(tmp_path)
    path = paths.study("recipe")
    path.parent.mkdir(parents=True)
    path.write_text(STEPS)
    return path


def test_each_step_has_what_the_steps_before_it_set(written: Path) -> None:
    """Its trial sets all of it, asks for its own models only, and is another one in a changed workspace."""
    naive, averaging = study.read("recipe", "")
    assert naive.trial.overrides == (
        "train.average_decay=0", "train.optimizer=adam", "translate.ablations=[]", "seeds=[1,2]",
    )  # fmt: skip
    assert naive.trial.targets == tuple(
        f"evaluate@{model}" for model in ("plain-1", "plain-2", "attention-1", "attention-2")
    )
    assert averaging.command == (
        "dvc exp run -S train.average_decay=0.999 -S train.optimizer=adam -S 'translate.ablations=[]' -S 'seeds=[1]' "
        "evaluate@attention-1"
    )
    assert averaging.trial.name.startswith("recipe-averaging-at-last-")
    assert study.read("recipe", "changed")[0].trial.name != naive.trial.name
    written.write_text(STEPS.replace("average_decay: 0,", "average_decay: 0.5,"))
    assert study.read("recipe", "")[0].trial.name != naive.trial.name


def test_a_step_of_one_seed_has_no_ensemble(written: Path) -> None:
    """params.yaml with ensembles and one seed is refused; a command stays as it was where there are none."""
    naive, averaging = study.read("recipe", "", ["attention"])
    assert averaging.trial.overrides[-2:] == ("seeds=[1]", "ensembles=[]")
    assert naive.command == study.read("recipe", "")[0].command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a, variants: [plain], seeds: [1]}", "0.set: Field required"),
        ("- {name: a, variants: [], seeds: [1], set: {}}", "0.variants: List should have at least 1 item"),
        ("- {name: a, variants: [plain], seeds: ['1'], set: {}}", "0.seeds.0: Input should be a valid integer"),
        ("a: b", "the file: Input should be a valid list"),
        ("[]", "it needs steps"),
        ("- &a {name: a, variants: [plain], seeds: [1], set: {}}\n- *a", "each a name of its own"),
    ],
)
def test_what_is_no_study_is_told(written: Path, text: str, said: str) -> None:
    """In one line, with the place in the file."""
    written.write_text(text)
    with pytest.raises(UserError, match=said):
        study.read("recipe", "")
    with pytest.raises(UserError, match=r"experiments/other/study\.yaml does not exist; known studies: recipe"):
        study.read("other", "")


def scores(variant: str, seed: int, bleu: float) -> dict[str, Any]:
    """What `evaluate` writes, as far as it is read here."""
    metric = {"signature": "nrefs:1", "score": bleu, "low": bleu - 1, "high": bleu + 2}
    names = {"variant": variant, "seed": seed, "result_id": f"{variant}{seed}"}
    return names | dict.fromkeys(("bleu", "chrf", "ter"), metric)


def test_the_table_tells_means_or_an_interval(written: Path) -> None:
    """Several seeds with their deviation, one with its interval; what lacks a seed is left out, and it reads back."""
    rows = study.read("recipe", "")
    test_set = {"path": "data/prepared/test.jsonl", "md5": "aa"}
    lock = {f"evaluate@{model}": {"deps": [test_set]} for model in ("attention-1", "attention-2", "plain-1")}
    naive = [scores("plain", 1, 10.0), scores("attention", 1, 20.0), scores("attention", 2, 22.0)]
    states = [
        Snapshot(rows[0].trial.name, {}, lock, naive),
        Snapshot(rows[1].trial.name, {}, lock, [scores("attention", 1, 23.0), scores("plain", 1, 10.0)]),
    ]
    lines = study.table(rows, states, "c0ffee", {})
    assert [(line["step"], line["variant"], line["seeds"], line["bleu"]) for line in lines] == [
        ("naive", "attention", 2, 21.0),
        ("Averaging, at last", "attention", 1, 23.0),
    ]
    assert [line["test_set"] for line in lines] == ["aa", "aa"]
    files.write_csv(paths.study_table("recipe"), lines)
    read = study_table.from_csv(files.read_csv(paths.study_table("recipe")))
    assert study_table.intervals(read)["attention"] == {
        "naive": (21.0, pytest.approx(21.0 - 2**0.5, abs=1e-4), pytest.approx(21.0 + 2**0.5, abs=1e-4)),
        "Averaging, at last": (23.0, 22.0, 25.0),
    }
    assert {line["commit"] for line in read} == {"c0ffee"}
    text = study_table.as_markdown("recipe", read)
    assert "| naive | 21.00 ± 1.41 | `train.average_decay=0 train.optimizer=adam translate.ablations=[]` |" in text
    assert "| Averaging, at last | 23.00 [22.00, 25.00] | `train.average_decay=0.999` |" in text
    assert f"# naive\n{rows[0].command}\n" in text


def test_a_line_that_was_measured_elsewhere_stays(written: Path) -> None:
    """While its command is the same, under whatever name; what is measured now replaces it, a changed row is new."""
    rows = study.read("recipe", "")
    lock = {"evaluate@attention-1": {"deps": [{"path": "data/prepared/test.jsonl", "md5": "aa"}]}}
    measured = Snapshot(rows[1].trial.name, {}, lock, [scores("attention", 1, 23.0)])
    files.write_csv(paths.study_table("recipe"), study.table(rows, [measured], "c0ffee", {}))
    before = study.known(study_table.from_csv(files.read_csv(paths.study_table("recipe"))), "aa")
    assert [study.is_complete(row, before) for row in rows] == [False, True]
    written.write_text(STEPS.replace("Averaging, at last", "Averaging"))
    renamed = study.read("recipe", "changed")
    (line,) = study.table(renamed, [], "0ddba11", before)
    assert (line["step"], line["bleu"], line["commit"]) == ("Averaging", 23.0, "c0ffee")
    better = Snapshot(renamed[1].trial.name, {}, lock, [scores("attention", 1, 24.0)])
    (line,) = study.table(renamed, [better], "0ddba11", before)
    assert (line["bleu"], line["commit"]) == (24.0, "0ddba11")
    written.write_text(STEPS.replace("average_decay: 0.999", "average_decay: 0.99"))
    changed = study.read("recipe", "")
    assert not study.is_complete(changed[1], before)
    assert study.table(changed, [], "0ddba11", before) == []


def test_lines_of_another_test_set_are_measured_anew(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table has one test set; how many lines had another is told."""
    rows = study.read("recipe", "")
    lock = {"evaluate@attention-1": {"deps": [{"path": "data/prepared/test.jsonl", "md5": "aa"}]}}
    measured = Snapshot(rows[1].trial.name, {}, lock, [scores("attention", 1, 23.0)])
    files.write_csv(paths.study_table("recipe"), study.table(rows, [measured], "c0ffee", {}))
    monkeypatch.setattr(command, "present_test_set", lambda: "aa")
    assert study.is_complete(rows[1], command.lines_before("recipe"))
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(command, "present_test_set", lambda: "bb")
    before = command.lines_before("recipe")
    assert not study.is_complete(rows[1], before)
    assert study.table(rows, [], "0ddba11", before) == []
    assert "left out: 1 lines of" in capsys.readouterr().out


def test_a_stale_test_set_decides_nothing(written: Path) -> None:
    """What params.yaml asks for now may be another; else it is that of the file, or of dvc.lock in a fresh clone."""
    files.write_text(paths.PARAMS, files.read_text(ROOT / paths.PARAMS))
    pairs = load_params().prepare.test_pairs
    lock = (
        "schema: '2.0'\nstages:\n"
        f"  prepare: {{params: {{params.yaml: {{prepare.test_pairs: {pairs}}}}}}}\n"
        "  evaluate@plain-1: {deps: [{path: data/prepared/test.jsonl, md5: aa}]}\n"
    )
    files.write_text(paths.LOCK, lock)
    assert command.present_test_set() == "aa"
    files.write_text(paths.prepared_records("test"), "")
    assert command.present_test_set() == hashlib.md5(b"").hexdigest()
    for stale in (lock.replace(str(pairs), "7"), lock.replace("prepare: {", "other: {")):
        files.write_text(paths.LOCK, stale)
        with pytest.raises(UserError, match="`dvc repro prepare` comes first"):
            command.present_test_set()

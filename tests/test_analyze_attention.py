"""The stage that shows and measures attention, on translations that the test writes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt import files, paths
from nmt.errors import UserError
from nmt.stages import analyze_attention as stage
from tests.project import ROOT, edit_yaml

PAIRS = [
    (["▁你好", "。", "</s>"], ["▁Hel", "lo", ".", "</s>"]),
    (["▁我", "喜欢", "狗", "。", "</s>"], ["▁I", "▁like", "▁dogs", ".", "</s>"]),
    (["▁狗", "</s>"], ["▁dog", "▁dog", "▁dog"]),  # cut off at the length limit; too short for a picture
    (["▁谢谢", "。", "</s>"], ["</s>"]),  # an empty translation
]
REFERENCES = [
    ["▁Hello", ".", "</s>"],
    ["▁I", "▁like", "▁dogs", ".", "</s>"],
    ["▁Dog", "</s>"],
    ["▁Thanks", ".", "</s>"],
]
TEXTS = ["Hello.", "I like dogs.", "Dog", "Thanks."]
WORDS = [2, 4, 1, 2]  # of the sources


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A folder with the translations of a plain and an attention model; gives the list of models published."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    edit_yaml(tmp_path / "params.yaml", {"corpus.source": "zh", "corpus.target": "en", "analyze_attention.heatmaps": 3})
    names = zip(("1-2", "3/4", "5", "6"), ("你好。", "我喜歡狗。", "狗", "謝謝。"), TEXTS, strict=True)
    records = [{"id": name, "source": source, "references": [text]} for name, source, text in names]
    files.write_json_lines(paths.prepared_records("test"), records)
    gold = {"id": "3/4", "sure": [[0, 1, 0, 1], [1, 3, 2, 6]], "possible": [[3, 4, 7, 11]]}
    files.write_json_lines(paths.gold_links("tatoeba-zh-en"), [gold])
    for variant in ("plain", "attention"):
        write_translations(paths.translations(variant, 1), attends=variant == "attention")
    published: list[tuple[str, int]] = []
    monkeypatch.setattr(stage.tracking, "publish_model", lambda *model: published.append(model))
    return published


def write_translations(folder: Path, *, attends: bool) -> None:
    """What `translate` writes; every target piece looks at the source piece of its place, or else at the eos."""
    forced = [(source, reference) for (source, _), reference in zip(PAIRS, REFERENCES, strict=True)]
    scored = {"score": -0.5, "log_probability": -2.0}
    free = [{"source_pieces": source, "hypotheses": [{"pieces": target, **scored}]} for source, target in PAIRS]
    files.write_json_lines(folder / "hypotheses.jsonl", free)
    references = [{"source_pieces": s, "pieces": t, "log_probability": -3.0} for s, t in forced]
    files.write_json_lines(folder / "references.jsonl", references)
    for number, name in enumerate(("erasure", "gradient"), start=1):
        influences = [number * influence(len(target), words) for (_, target), words in zip(PAIRS, WORDS, strict=True)]
        labelled = [number * influence(5, 4) if row == 1 else np.zeros((0, 0)) for row in range(4)]
        files.write_matrices(folder / f"{name}.npz", influences)
        files.write_matrices(folder / f"references.{name}.npz", labelled)
    if attends:
        for name, pairs in (("attention.npz", PAIRS), ("references.attention.npz", forced)):
            files.write_matrices(folder / name, [diagonal(len(target), len(source)) for source, target in pairs])


def diagonal(targets: int, sources: int) -> np.ndarray:
    """Weights [T, S] of a model that walks from piece to piece and stays at the eos."""
    return np.eye(sources)[np.minimum(np.arange(targets), sources - 1)]


def influence(targets: int, words: int) -> np.ndarray:
    """Nats [T, W]: the word of a piece's place helped it, the one after hurt it."""
    helped = np.eye(targets, words)
    return helped - 0.5 * np.roll(helped, 1, axis=1)


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def lines(variant: str, name: str) -> list[str]:
    """The lines of a file of links or words."""
    return files.read_lines(paths.attention_report(variant, 1) / "links" / name)


def summary(variant: str) -> dict[str, Any]:
    """The numbers that the stage wrote."""
    read: dict[str, Any] = files.read_json(paths.attention_report(variant, 1) / "summary.json")
    return read


def test_attention(project: list[tuple[str, int]]) -> None:
    """Links of words at both steps, pictures of the sentences that fit, numbers beside their baselines."""
    stage.main("attention", 1)
    assert lines("attention", "source.words.txt") == ["你好 。", "我 喜欢 狗 。", "狗", "谢谢 。"]
    assert lines("attention", "hypotheses.words.txt") == ["Hello .", "I like dogs .", "dog dog dog", ""]
    assert lines("attention", "references.words.txt") == ["Hello .", "I like dogs .", "Dog", "Thanks ."]
    assert lines("attention", "references.t.pharaoh") == ["0-0 1-1", "0-0 1-1 2-2 3-3", "0-0", "0-0 1-1"]
    assert lines("attention", "references.t+1.pharaoh") == ["1-0", "1-0 2-1 3-2", "", "1-0"]
    # "Hel" looks at 你好 and "lo" at 。: as a word they look half at each, which both are above the threshold
    assert lines("attention", "hypotheses.t.pharaoh")[0] == "0-0"
    assert lines("attention", "hypotheses.t.threshold.pharaoh")[0] == "0-0 1-0"
    figures = contents(paths.attention_report("attention", 1) / "figures")
    assert sorted(figures) == ["01-1-2.png", "03-3_4.png", "alignment.png", "length.png"]
    attention = summary("attention")["attention"]
    assert (attention["kind"], attention["link_threshold"]) == ("additive", 0.3)
    assert attention["references"]["t"]["monotonicity"] == 1.0
    assert attention["references"]["t"]["coverage_deviation"] == 0.0
    assert attention["references"]["t+1"]["eos_mass"] == pytest.approx(4 / 9, abs=1e-6)
    assert attention["references"]["diagonal"] == attention["references"]["t"]
    assert attention["references"]["uniform"]["entropy_normalised"] == 1.0
    assert attention["hypotheses"]["t"].keys() == attention["hypotheses"]["uniform"].keys()
    assert project == [("attention", 1)]


def test_plain(project: list[tuple[str, int]]) -> None:
    """Without attention there are words, the figure of lengths, and what can be said of the texts alone."""
    stage.main("plain", 1)
    stage.main("attention", 1)
    written = contents(paths.attention_report("plain", 1))
    assert sorted(written) == [
        "figures/alignment.png",
        "figures/length.png",
        "links/hypotheses.words.txt",
        "links/references.words.txt",
        "links/source.words.txt",
        "summary.json",
        "suspects.csv",
        "words.jsonl",
    ]
    assert summary("plain")["attention"] is None
    assert summary("plain")["text"] == summary("attention")["text"]
    assert summary("plain")["text"]["empty"] == summary("plain")["text"]["unfinished"] == 0.25
    assert summary("plain")["text"]["repeated_bigrams"] == {
        "hypotheses": pytest.approx(1 / 6, abs=1e-6),
        "references": 0,
    }
    assert project == [("plain", 1), ("attention", 1)]


@pytest.mark.parametrize("variant", ["plain", "attention"])
def test_links_against_gold(project: list[tuple[str, int]], variant: str) -> None:
    """One row for each way to read links, of the one labelled sentence; a corpus without gold has no table."""
    stage.main(variant, 1)
    table = summary(variant)["alignment"]
    assert (table["gold"], table["sentences"]) == (paths.gold_links("tatoeba-zh-en").as_posix(), 1)
    rates = {row["method"]: row["aer"] for row in table["rows"]}
    kinds = ["erasure", "gradient", *(["attention t", "attention t+1"] if variant == "attention" else [])]
    assert set(rates) == {"uniform", "diagonal"} | {f"{k} {by}" for k in kinds for by in ("argmax", "threshold")}
    assert rates["erasure argmax"] == rates["diagonal"] == pytest.approx(1 / 6, abs=1e-6)  # gold has no full stop
    assert table["rows"][-1].keys() == {"method", "precision", "recall", "aer", "low", "high"}
    paths.gold_links("tatoeba-zh-en").unlink()
    stage.main(variant, 1)
    assert summary(variant)["alignment"] is None
    assert not (paths.attention_report(variant, 1) / "figures" / "alignment.png").exists()


def test_gold_without_influence_is_an_error(project: list[tuple[str, int]]) -> None:
    """A sentence that was labelled after `translate` ran."""
    gold = {"id": "1-2", "sure": [[0, 2, 0, 5]], "possible": []}
    files.write_json_lines(paths.gold_links("tatoeba-zh-en"), [gold])
    with pytest.raises(UserError, match="nothing was measured of 1-2"):
        stage.main("attention", 1)


def test_words_of_every_sentence(project: list[tuple[str, int]]) -> None:
    """The explorer's matrices are between words, in the test set's order; influence is correlated."""
    stage.main("attention", 1)
    lines = files.read_json_lines(paths.attention_report("attention", 1) / "words.jsonl")
    assert [line["id"] for line in lines] == ["1-2", "3/4", "5", "6"]
    assert lines[0]["target"] == ["Hello", "."]
    assert lines[0]["attention"] == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert lines[0]["erasure"] == [[0.5, 0.5], [0.0, 0.0]]  # the changes of Hel and lo added
    assert lines[1]["gradient"] == (2 * influence(4, 4)).tolist()
    assert lines[3]["target"] == lines[3]["attention"] == []
    found = summary("attention")["influence"]["hypotheses"]
    assert found["erasure_gradient"]["tau"] > 0
    assert found["erasure_gradient"]["top"] == 1.0
    rows = files.read_lines(paths.attention_report("attention", 1) / "suspects.csv")
    assert rows[0].startswith("id,both_fail,chrf,")
    assert len(rows) - 1 >= summary("attention")["suspects"]["repeated"] == 1


def test_same_bytes(project: list[tuple[str, int]]) -> None:
    """A second run writes the same bytes, and nothing of an earlier one stays."""
    report = paths.attention_report("attention", 1)
    stage.main("attention", 1)
    first = contents(report)
    files.write_text(report / "figures" / "99-old.png", "")
    stage.main("attention", 1)
    assert contents(report) == first


OTHER = [{"id": "1", "source": "猫", "references": ["cat"]}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "attention.npz").unlink(), r"attention\.npz does not exist"),
        (
            lambda folder: files.write_matrices(folder / "attention.npz", [np.ones((2, 2))] * 4),
            "does not fit the pieces",
        ),
        (
            lambda folder: files.write_matrices(folder / "erasure.npz", [np.ones((0, 0))] * 3),
            "does not fit the pieces",
        ),
        (lambda folder: files.write_json_lines(paths.prepared_records("test"), OTHER), "4 translations of 1 "),
    ],
    ids=["missing", "other shapes", "too few", "other test set"],
)
def test_files_that_do_not_belong_together(project: list[tuple[str, int]], damage: Any, message: str) -> None:
    """Missing or mismatched files are one clear error, and nothing is published."""
    damage(paths.translations("attention", 1))
    with pytest.raises(UserError, match=message):
        stage.main("attention", 1)
    assert not paths.attention_report("attention", 1).exists()
    assert project == []


@pytest.mark.parametrize(
    ("lengths", "count", "expected"),
    [
        ([5, 2, 40, 2, 1, 9, 16], 3, [1, 5, 6]),
        ([5, 2, 40, 2, 1, 9, 16], 1, [1]),
        ([5, 2, 40, 2, 1, 9, 16], 0, []),
        ([5, 3, 3], 9, [1, 2, 0]),
        ([1, 40], 2, []),
    ],
)
def test_choose(lengths: list[int], count: int, expected: list[int]) -> None:
    """Short to medium sentences, evenly over lengths, the shortest first; of equal length the earlier one."""
    assert stage.choose(lengths, count) == expected

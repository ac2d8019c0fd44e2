"""The stage `translate`: what it writes, and that it writes the same twice."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nmt import paths, tracking
from nmt.errors import UserError
from nmt.files import SEAL, read_json_lines, read_lines, read_matrices, write_json_lines, write_lines
from nmt.stages import translate, translate_ensemble
from nmt.stages.translate import consecutive_groups, main
from nmt.words import segment
from tests.bundles import SOURCE, TARGET, write_bundle

ROOT = Path(__file__).parent.parent
PAIRS = 7


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a small test set, an untrained model per variant, and no tracking."""
    monkeypatch.chdir(tmp_path)
    published: list[tuple[str, int]] = []
    monkeypatch.setattr(tracking, "publish_model", lambda *model: published.append(model))
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for old, new in {"beam_size: 5": "beam_size: 3", "n_best: 5": "n_best: 2"}.items():
        params = params.replace(old, new)
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    sources, targets = (SOURCE * 2)[:PAIRS], (TARGET * 2)[:PAIRS]
    write_lines(paths.prepared_text("test", "source"), sources)
    write_lines(paths.prepared_text("test", "target"), targets)
    records = [
        {"id": str(i), "source": source, "references": [f"raw {target}", "other"]}
        for i, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    write_json_lines(paths.prepared_records("test"), records)
    (tmp_path / "dvc.yaml").write_text(
        "stages: {translate: {params: [translate], deps: [data, 'models/${item.variant}']},"
        " translate_ensemble: {params: [seeds], deps: ['models/${item.variant}']}}"
    )
    write_bundle(paths.bundle("attention", 1), "additive")
    write_bundle(paths.bundle("plain", 1), "none")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_belong_together(project: Path) -> None:
    """Texts, pieces and attention of hypotheses and references line by line; without attention no matrices."""
    main("attention", 1)
    folder = paths.translations("attention", 1)
    influences = [f"{prefix}{name}.npz" for prefix in ("", "references.") for name in ("erasure", "gradient")]
    every = [SEAL, "hypotheses.jsonl", "hypotheses.txt", "joined.jsonl", "references.jsonl", *influences]
    ablations = [f"ablation.{name}.txt" for name in ("frozen", "shifted", "uniform")]
    assert sorted(contents(folder)) == sorted([*every, *ablations, "attention.npz", "references.attention.npz"])
    texts, records = read_lines(folder / "hypotheses.txt"), read_json_lines(folder / "hypotheses.jsonl")
    assert texts == [record["hypotheses"][0]["text"] for record in records]
    assert [len(record["hypotheses"]) for record in records] == [2] * PAIRS
    for record, matrix in zip(records, read_matrices(folder / "attention.npz"), strict=True):
        assert matrix.shape == (len(record["hypotheses"][0]["pieces"]), len(record["source_pieces"]))
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    references = read_json_lines(folder / "references.jsonl")
    matrices = read_matrices(folder / "references.attention.npz")
    for record, target, matrix in zip(references, TARGET * 2, matrices, strict=False):
        assert "".join(record["pieces"]).replace("\u2581", " ") == f" {target}</s>"
        assert sum(record["token_log_probabilities"]) == pytest.approx(record["log_probability"])
        assert matrix.shape == (len(record["pieces"]), len(record["source_pieces"]))
    main("plain", 1)
    assert sorted(contents(paths.translations("plain", 1))) == sorted(every)


@pytest.mark.parametrize("variant", ["plain", "attention"])
def test_influence_is_of_source_words(project: Path, variant: str) -> None:
    """Pieces by words, for every best hypothesis, and for the references with gold links alone."""
    gold = [{"id": name, "sure": [], "possible": []} for name in ("1", "4")]
    write_json_lines(paths.gold_links("tatoeba-zh-en"), gold)
    main(variant, 1)
    folder = paths.translations(variant, 1)
    records = read_json_lines(folder / "hypotheses.jsonl")
    words = [len(segment(record["source_pieces"], "zh").words) for record in records]
    best = [(len(record["hypotheses"][0]["pieces"]), count) for record, count in zip(records, words, strict=True)]
    references = read_json_lines(folder / "references.jsonl")
    forced = [
        (len(record["pieces"]), count) if row in (1, 4) else (0, 0)
        for row, (record, count) in enumerate(zip(references, words, strict=True))
    ]
    for name in ("erasure", "gradient"):
        assert [matrix.shape for matrix in read_matrices(folder / f"{name}.npz")] == best
        assert [matrix.shape for matrix in read_matrices(folder / f"references.{name}.npz")] == forced
    assert max(abs(matrix).max() for matrix in read_matrices(folder / "erasure.npz")) > 0.01


def test_ablations_are_whole_translations(project: Path) -> None:
    """A line for each sentence; they differ from each other and from the model as it is."""
    main("attention", 1)
    folder = paths.translations("attention", 1)
    names = ["hypotheses", "ablation.uniform", "ablation.shifted", "ablation.frozen"]
    texts = [read_lines(folder / f"{name}.txt") for name in names]
    assert [len(lines) for lines in texts] == [PAIRS] * 4
    assert len({tuple(lines) for lines in texts}) > 1


def test_joined_groups_are_consecutive(project: Path) -> None:
    """Every k of params, members in order, sources and references joined as the languages are written."""
    main("plain", 1)
    rows = read_json_lines(paths.translations("plain", 1) / "joined.jsonl")
    members = [[0, 1], [2, 3], [4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert [row["members"] for row in rows] == members
    for row in rows:
        assert row["joined"] == len(row["members"])
        assert row["source"] == "".join((SOURCE * 2)[i] for i in row["members"])
        assert row["references"] == [" ".join(f"raw {(TARGET * 2)[i]}" for i in row["members"])]
        assert isinstance(row["hypothesis"], str)
    assert [list(group) for group in consecutive_groups(5, 2)] == [[0, 1], [2, 3]]
    assert consecutive_groups(2, 3) == []


def test_same_bytes_twice(project: Path) -> None:
    """Nothing in the outputs depends on when or where the stage ran."""
    main("attention", 1)
    first = contents(paths.translations("attention", 1))
    shutil.rmtree(paths.STATE)
    main("attention", 1)
    assert contents(paths.translations("attention", 1)) == first
    assert str(project) not in json.dumps({name: content.decode("latin-1") for name, content in first.items()})


class Cut(Exception):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("part", ["hypotheses", "ablation"])
def test_a_cut_run_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Cut off in any part, the next run does that and those after it alone, and the bytes are those of an uncut one."""
    main("attention", 1)
    first = contents(paths.translations("attention", 1))
    shutil.rmtree(paths.STATE)
    shutil.rmtree(paths.TRANSLATIONS)
    written: list[str] = []

    def watched(name: str, cut: str | None) -> None:
        real = getattr(translate, f"write_{name}")

        def write(*arguments: object) -> None:
            real(*arguments)
            if name == cut:
                raise Cut
            written.append(name)

        monkeypatch.setattr(translate, f"write_{name}", write)

    names = ["hypotheses", "references", "influence", "ablation", "joined"]
    with monkeypatch.context() as patched:
        monkeypatch = patched
        for name in names:
            watched(name, part)
        with pytest.raises(Cut):
            main("attention", 1)
    assert not paths.TRANSLATIONS.exists()
    before = written.copy()
    written.clear()
    for name in names:
        watched(name, None)
    main("attention", 1)
    assert set(written) == set(names[names.index(part) :])
    assert set(before) == set(names[: names.index(part)])
    assert contents(paths.translations("attention", 1)) == first


def test_an_ensemble_translates_together(project: Path) -> None:
    """The files of one model less what is asked of one alone; each reference's token has the mean of its models' p."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(re.sub(r"(?m)^seeds: .*$", "seeds: [1, 2]", text), encoding="utf-8")
    write_bundle(paths.bundle("attention", 2), "additive", seed=5)
    translate_ensemble.main("attention")
    folder = paths.translations("attention", paths.ENSEMBLE)
    kept = ["hypotheses.jsonl", "hypotheses.txt", "joined.jsonl", "references.jsonl"]
    assert sorted(contents(folder)) == sorted([SEAL, *kept, "attention.npz", "references.attention.npz"])
    assert len(read_lines(folder / "hypotheses.txt")) == PAIRS
    for seed in (1, 2):
        main("attention", seed)
    one, two, both = (
        [
            math.exp(log_p)
            for line in read_json_lines(paths.translations("attention", name) / "references.jsonl")
            for log_p in line["token_log_probabilities"]
        ]
        for name in (1, 2, paths.ENSEMBLE)
    )
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(one, two, strict=True)], rel=1e-4)
    assert one != pytest.approx(two, rel=1e-2)
    texts = [read_lines(paths.translations("attention", name) / "hypotheses.txt") for name in (1, 2, paths.ENSEMBLE)]
    assert texts[2] not in texts[:2]


def test_an_ensemble_lacks_no_model(project: Path) -> None:
    """A seed that was not trained is named."""
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(re.sub(r"(?m)^seeds: .*$", "seeds: [1, 2]", text), encoding="utf-8")
    with pytest.raises(UserError, match=r"attention/2 holds no model"):
        translate_ensemble.main("attention")


@pytest.mark.parametrize("name", ["uniform/ablation.uniform.txt", "hypotheses/attention.npz", f"references/{SEAL}"])
def test_a_part_that_was_damaged_is_made_anew(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A bit that flips between a kill and the next run gets into no output, and the part is named."""
    main("attention", 1)
    first = contents(paths.translations("attention", 1))
    (path,) = paths.UNFINISHED.glob(f"translate-*/{name}")
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    capsys.readouterr()
    main("attention", 1)
    assert f"{path.parent.resolve()} is not used: " in capsys.readouterr().err
    assert path.read_bytes() == whole
    assert contents(paths.translations("attention", 1)) == first


def test_unequal_test_set_is_refused(project: Path) -> None:
    """A line too few in one file is named, and no half-written folder is left."""
    write_lines(paths.prepared_text("test", "target"), TARGET[: PAIRS - 1])
    with pytest.raises(UserError, match=r"test\.target\.txt 6"):
        main("attention", 1)
    assert not paths.TRANSLATIONS.exists()

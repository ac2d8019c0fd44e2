"""A project whose page tests look at: they write what models report, and the real stages make the rest."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmt import files, leaderboard, paths, tracking
from nmt.html_report.tables import STATISTICS
from nmt.leaderboard import Snapshot
from nmt.lockfile import file_md5
from nmt.stages import compare, evaluate, report
from tests.project import ROOT, edit_yaml

PARAMS: dict[str, object] = {
    "corpus": {"name": "tatoeba-zh-en", "source": "zh", "target": "en"},
    "variants": {"plain": {"attention": "none"}, "attention": {"attention": "additive"}},
    "seeds": [1],
    "evaluate.bootstrap_samples": 20,
    "evaluate.length_bins": 2,
    "compare.bootstrap_samples": 20,
    "compare.examples": 2,
}
EVIL = "<img src=x onerror=document.title='broken'></script><script>document.title='broken'</script>"
PAIRS: list[tuple[list[str], str, str, str]] = [  # source words, reference, plain's translation, attention's
    (["你", "的", "鞋", "脱", "哪儿", "了", "？"], "Where are your shoes?", "Where is it?", "Where are your shoes?"),
    (["我", "喜欢", "猫", "。"], "I like cats.", "I like dogs.", "I like cats."),
    ([EVIL, "。"], f"It says {EVIL}.", f"{EVIL} says it.", f"It says {EVIL}."),
    (["谢谢", "。"], "Thank you.", "", "Thanks."),
    (["很", "长"] * 30, "very long " * 30, "Pneumonoultramicroscopicsilicovolcanoconiosis", "very long " * 30),
    *([["第", str(n), "句", "。"], f"This is number {n}.", "This is it.", f"This is No. {n}."] for n in range(6, 61)),
]
CROSSED = 5  # the row of a sentence that attention reads backwards
NULL = 3  # the row of a sentence that plain has no matrices for


def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to `folder`, write the inputs, and run `evaluate`, `compare` and `report`."""
    enter(folder, monkeypatch)
    shutil.copy(ROOT / paths.PARAMS, folder)
    edit_yaml(paths.PARAMS, PARAMS)
    write_test_set()
    for place, variant in enumerate(("plain", "attention")):
        write_model(variant, [pair[2 + place] for pair in PAIRS])
        evaluate.main(variant, 1)
        files.write_json(paths.scores(variant, 1), files.read_json(paths.scores(variant, 1)) | more_scores(variant))
    compare.main()
    write_experiments()
    write_study()
    report.main()


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` the current one, in which stages run without MLflow."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tracking, "publish_model", lambda variant, seed: None)
    monkeypatch.setattr(tracking, "publish_comparison", lambda: None)


def write_test_set() -> None:
    """What `prepare` writes, as far as it is read here."""
    records = [
        {
            "id": f"{row}-{row + 500}",
            "source": "".join(source),
            "references": [reference, "Where did you take your shoes off?"] if row == 0 else [reference],
            "source_id": str(row),
            "reference_ids": [str(row + 500)],
        }
        for row, (source, reference, *_) in enumerate(PAIRS)
    ]
    files.write_json_lines(paths.prepared_records("test"), records)
    files.write_lines(paths.prepared_text("train", "target"), [reference for _, reference, *_ in PAIRS])
    files.write_json(paths.CORPUS_REPORT, {"licence": "CC BY 2.0 FR", "attribution": "Sentences by the contributors"})


def write_model(variant: str, hypotheses: list[str]) -> None:
    """What `train`, `translate` and `analyze_attention` write of one model, as far as it is read here."""
    folder, training, analysis = (
        of(variant, 1) for of in (paths.translations, paths.training_report, paths.attention_report)
    )
    files.write_lines(folder / "hypotheses.txt", hypotheses)
    forced = [{"pieces": ["a", "</s>"], "log_probability": -2.0} for _ in PAIRS]
    files.write_json_lines(folder / "references.jsonl", forced)
    joined = [
        {"joined": 2, "members": [row, row + 1], "references": [" ".join(p[1] for p in PAIRS[row : row + 2])]}
        | {"hypothesis": " ".join(hypotheses[row : row + 2])}
        for row in range(0, len(PAIRS), 2)
    ]
    files.write_json_lines(folder / "joined.jsonl", joined)
    counts = dict.fromkeys(("updates", "epochs", "best_epoch", "source_tokens", "target_tokens", "parameters"), 100)
    losses = {"train_loss": 1.0, "dev_loss": 2.0, "dev_perplexity": 7.4, "flops": 1.5e15, "training_id": variant}
    files.write_json(training / "summary.json", counts | losses)
    files.write_csv(training / "history.csv", [{"epoch": n, "updates": n, "dev_loss": 4 - n / 2} for n in (1, 2, 3)])
    files.write_json(analysis / "summary.json", summary(variant))
    files.write_csv(analysis / "suspects.csv", suspects(variant))
    files.write_json_lines(analysis / "words.jsonl", [words(variant, row, text) for row, text in enumerate(hypotheses)])


def write_experiments() -> None:
    """A saved leaderboard: this commit, an experiment with much to tell, and one on another test set."""
    stages = [paths.stage("evaluate", variant, 1) for variant in ("plain", "attention")]
    test_set = {"path": paths.prepared_records("test").as_posix(), "md5": file_md5(paths.prepared_records("test"))}
    lock = {stage: {"deps": [test_set]} for stage in stages}
    scores = [files.read_json(paths.scores(variant, 1)) for variant in ("plain", "attention")]
    states = [
        Snapshot("HEAD", {"translate": {"beam_size": 5}}, lock, scores),
        Snapshot("evil", {"translate": {"beam_size": EVIL}}, lock, [scores[1] | {"result_id": "e" * 16}]),
    ]
    rows = list(leaderboard.leaderboard(states, "bleu").rows)
    foreign = rows[0] | {"experiment": "elsewhere", "test_set": "0" * 32}
    files.write_csv(paths.LEADERBOARD, [*rows, foreign])


def write_study() -> None:
    """A study of two steps and one more on another test set; plain is trained for the first alone."""
    test_set = file_md5(paths.prepared_records("test"))
    line = {
        "step": "naive", "adds": "train.average_decay=0", "variant": "plain", "seeds": 2,
        "bleu": 10.0, "deviation": 0.5, "low": "", "high": "", "chrf": 30.0,
        "results": "a b", "test_set": test_set, "command": "dvc exp run",
    }  # fmt: skip
    single = line | {"variant": "attention", "seeds": 1, "deviation": "", "low": 19.0, "high": 21.0, "bleu": 20.0}
    averaged = single | {"step": "averaging", "adds": "train.average_decay=0.999", "bleu": 20.75}
    elsewhere = line | {"step": "elsewhere", "test_set": "0" * 32}
    files.write_csv(paths.study_table(paths.INGREDIENTS), [line, single, averaged, elsewhere])


def summary(variant: str) -> dict[str, Any]:
    """`summary.json`; of attention alone it has statistics."""
    columns = {column: dict.fromkeys(STATISTICS, 0.25) for column in ("t", "t+1", "uniform", "diagonal")}
    agreeing = {"tau": 0.5, "tau_low": 0.25, "tau_high": 0.75, "top": 0.625, "top_low": 0.5, "top_high": 0.75}
    influence = {"erasure_gradient": agreeing}
    if variant == "attention":
        influence |= {"attention_erasure": {**agreeing, "tau": -0.5}}
    rows = [aligned("diagonal", 0.625), aligned("erasure argmax", 0.5 if variant == "plain" else 0.25)]
    return {
        "attention": {"kind": "additive", "hypotheses": columns} if variant == "attention" else None,
        "alignment": {"gold": "by hand", "sentences": 9, "rows": rows},
        "influence": {"hypotheses": influence, "references": {}},
    }


def suspects(variant: str) -> list[dict[str, str]]:
    """Two sentences worth reading; attention is lost in one of them."""
    return [{"id": "9-509", "both_fail": "yes" if variant == "attention" else ""}, {"id": "8-508", "both_fail": ""}]


def aligned(method: str, aer: float) -> dict[str, Any]:
    """A line of the alignment table."""
    return {"method": method, "precision": 0.5, "recall": None, "aer": aer, "low": aer - 0.0625, "high": aer + 0.0625}


def more_scores(variant: str) -> dict[str, Any]:
    """Recall by frequency (no rare word was wanted) and, of the model with attention, BLEU without it."""
    recall = {"recall": 0.5, "recall_low": 0.25, "recall_high": 0.75}
    rows = [
        {"low": 0, "high": 0, "words": 0, **dict.fromkeys(recall)},
        {"low": 1, "high": 4, "words": 40, **recall},
        {"low": 5, "high": None, "words": 1200, **recall},
    ]
    tampered = {"uniform": {"bleu": 3.25, "low": 2.5, "high": 4.0}}
    return {"by_frequency": rows, "ablations": tampered if variant == "attention" else {}}


def words(variant: str, row: int, text: str) -> dict[str, Any]:
    """A line of `words.jsonl`: word t looks at source word t with 80 percent and needs it (3 nats); but see CROSSED."""
    source, target = PAIRS[row][0], text.split()
    looks = np.full((len(target), len(source) + 1), 0.2 / len(source))
    needs = np.full((len(target), len(source)), -0.25)
    for t in range(len(target)):
        s = min(t, len(source) - 1)
        looks[t, len(source) - 1 - s if row == CROSSED else s] = 0.8
        needs[t, s] = 3.0
    empty = variant == "plain" and row == NULL
    return {
        "id": f"{row}-{row + 500}",
        "source": source,
        "target": target,
        "attention": looks.round(4).tolist() if variant == "attention" else None,
        "erasure": None if empty else needs.tolist(),
        "gradient": None if empty else (needs / 2).tolist(),
        "entropy": round(1 + row / 100, 4) if variant == "attention" else None,
        "chrf": round(row * 7919 % 100 + (0.5 if variant == "attention" else 0.0), 2),
        "score": -round(1 + row * 31 % 97 / 100, 4),
    }

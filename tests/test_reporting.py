"""`evaluate` and `compare` on two variants and two seeds whose files the test writes."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt import files, markdown, paths, reporting, tracking
from nmt.commands import readme
from nmt.config import load_params, load_yaml
from nmt.errors import UserError
from nmt.stages import compare, evaluate, evaluate_ensemble

SENTENCES = 120
WORDS = "the a cat dog sat ran on to mat home I you like tea do not and we saw it".split()
NOISE = {"plain": 0.015, "attention": 0.003}  # of a word, times the words of the sentence
Edit = Callable[[dict[str, Any]], None]


def write_params(edit: Edit = lambda params: None) -> None:
    """Write the repository's params.yaml with few samples, two seeds and what `edit` changes."""
    params = load_yaml(Path(__file__).parent.parent / "params.yaml")
    params["corpus"] = {"name": "tatoeba-zh-en", "source": "zh", "target": "en"}
    params["variants"] = {"plain": {"attention": "none"}, "attention": {"attention": "additive"}}
    params["seeds"] = [1, 2]
    params["evaluate"] |= {"bootstrap_samples": 200, "length_bins": 4}
    params["compare"] |= {"baseline": "plain", "bootstrap_samples": 400, "examples": 5}
    edit(params)
    files.write_json(paths.PARAMS, params)  # JSON is YAML


def one_seed(params: dict[str, Any]) -> None:
    """Leave seed 1 alone."""
    params["seeds"] = [1]


def write_test_set() -> list[str]:
    """Write a test set of sentences of 2 to 13 words, and return the pairs' own references."""
    source = random.Random(1)
    own = [" ".join(source.choice(WORDS) for _ in range(2 + row % 12)) for row in range(SENTENCES)]
    records = [
        {
            "id": str(row),
            "source": "猫狗" * len(text.split()),
            "references": [text, "another one"] if row % 7 == 0 else [text],
            "source_id": str(1000 + row),
            "reference_ids": [str(2000 + row)],
        }
        for row, text in enumerate(own)
    ]
    files.write_json_lines(paths.prepared_records("test"), records)
    files.write_lines(paths.prepared_text("train", "target"), [*own[:30], *["the cat"] * 200])
    return own


def garbled(text: str, rate: float, source: random.Random) -> str:
    """Return the text with words replaced, the more the longer it is."""
    words = text.split()
    return " ".join(source.choice(WORDS) if source.random() < rate * len(words) else word for word in words)


def write_model(variant: str, seed: int, own: list[str]) -> None:
    """Write what training, translation and analysis of one model report."""
    source, rate = random.Random(f"{variant}{seed}"), NOISE[variant]
    folder = paths.translations(variant, seed)
    files.write_lines(folder / "hypotheses.txt", [garbled(text, rate, source) for text in own])
    for name in ("uniform", "frozen") if variant == "attention" else ():
        files.write_lines(folder / f"ablation.{name}.txt", [garbled(text, 0.05, source) for text in own])
    forced = [{"pieces": [*text.split(), "</s>"], "log_probability": -1.5 * (len(text.split()) + 1)} for text in own]
    files.write_json_lines(folder / "references.jsonl", forced)
    records = []
    for size in (2, 3):
        for start in range(0, SENTENCES, size):
            text = " ".join(own[start : start + size])
            members = list(range(start, start + size))
            record = {"joined": size, "members": members, "source": "-", "references": [text]}
            records.append(record | {"hypothesis": garbled(text, rate, source)})
    files.write_json_lines(folder / "joined.jsonl", records)
    summary = dict.fromkeys(("updates", "epochs", "best_epoch", "source_tokens", "target_tokens"), 100 + seed)
    summary |= {"training_id": f"{variant}{seed}", "parameters": 1_234_567, "flops": 1.5e15, "dev_perplexity": 9.0}
    files.write_json(
        paths.training_report(variant, seed) / "summary.json",
        summary | {"train_loss": 1.0, "dev_loss": 2.0 + seed / 10},
    )
    history = [{"epoch": epoch, "updates": 50 * epoch, "dev_loss": 3.0 - epoch / 10} for epoch in (1, 2)]
    files.write_csv(paths.training_report(variant, seed) / "history.csv", history)
    if variant == "attention":
        at = {"t": {"entropy": 1.0 + seed, "lost": None}, "uniform": {"entropy": 2.0}}
        rows = [{"method": "erasure argmax", "precision": 0.5, "recall": None, "aer": 0.3, "low": 0.2, "high": 0.4}]
        rows.append({"method": "nothing", **dict.fromkeys(("precision", "recall", "aer", "low", "high"))})
        aligned = {"gold": "gold.jsonl", "sentences": 100, "rows": rows}
        report = {"seed": seed, "empty": 0.25, "note": "text", "attention": {"hypotheses": at}, "alignment": aligned}
        files.write_json(paths.attention_report(variant, seed) / "summary.json", report)


def untracked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run stages in `folder`, without MLflow."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tracking, "publish_comparison", lambda: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all inputs, and run both stages on them once."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        untracked(monkeypatch, folder)
        own = write_test_set()
        for variant in NOISE:
            for seed in (1, 2):
                write_model(variant, seed, own)
        compared()
    return folder


@pytest.fixture
def reports(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Go to a copy of the finished reports, and return its comparison."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    untracked(monkeypatch, tmp_path)
    comparison: dict[str, Any] = files.read_json(paths.COMPARISON / "comparison.json")
    return comparison


def evaluate_all() -> None:
    """Run `evaluate` for every model of params.yaml."""
    params = load_params()
    for variant in params.variants:
        for seed in params.seeds:
            evaluate.main(variant, seed)


def compared(edit: Edit = lambda params: None) -> dict[str, Any]:
    """Run both stages with changed params, and return comparison.json."""
    write_params(edit)
    evaluate_all()
    compare.main()
    result: dict[str, Any] = files.read_json(paths.COMPARISON / "comparison.json")
    return result


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_evaluate_reports_every_metric(reports: dict[str, Any]) -> None:
    """The report has all keys of the format, and numbers that can be made by hand are right."""
    report = files.read_json(paths.scores("attention", 1))
    assert list(report)[:5] == ["result_id", "variant", "seed", "attention", "sentences"]
    assert (report["variant"], report["seed"], report["attention"]) == ("attention", 1, "additive")
    for metric in ("bleu", "chrf", "ter"):
        assert report[metric]["low"] < report[metric]["score"] < report[metric]["high"]
        assert "nrefs:var" in report[metric]["signature"]
    assert report["perplexity_per_token"] == report["perplexity_per_word"] == pytest.approx(4.481689)
    hypotheses = files.read_lines(paths.translations("attention", 1) / "hypotheses.txt")
    records = files.read_json_lines(paths.prepared_records("test"))
    same = sum(text in record["references"] for text, record in zip(hypotheses, records, strict=True))
    assert report["exact_match"] == pytest.approx(same / SENTENCES)
    assert [row["sentences"] for row in report["by_length"]] == [30, 30, 30, 30]
    assert (report["by_length"][0]["low"], report["by_length"][-1]["high"]) == (4, 26)
    assert [(row["joined"], row["sentences"]) for row in report["joined"]] == [(1, 120), (2, 60), (3, 40)]


def test_same_inputs_same_bytes(reports: dict[str, Any]) -> None:
    """A second run writes the same bytes, figures included, and no path or host stands in them."""
    first = snapshot(paths.SCORES) | snapshot(paths.COMPARISON)
    compared()
    assert snapshot(paths.SCORES) | snapshot(paths.COMPARISON) == first
    assert not any(str(Path.cwd()).encode() in content for content in first.values())
    tables = ("ablations", "alignment", "by_frequency", "by_length", "curves", "joined")
    names = [
        files.SEAL,
        "comparison.json",
        "comparison.md",
        *(f"{name}.{kind}" for name in tables for kind in ("csv", "png")),
    ]
    assert [Path(name).name for name in first if "comparison" in name] == sorted(names)


def test_comparison_of_two_seeds(reports: dict[str, Any]) -> None:
    """Means and deviations are over the seeds; tests are pooled and per seed; attention wins, more so when joined."""
    comparison = reports
    scores = [files.read_json(paths.scores("plain", seed)) for seed in (1, 2)]
    plain = comparison["variants"]["plain"]
    assert plain["scores"]["bleu"]["mean"] == pytest.approx(sum(one["bleu"]["score"] for one in scores) / 2)
    assert plain["training"]["dev_loss"] == {"mean": 2.15, "deviation": pytest.approx(0.070711)}
    assert [run["seed"] for run in plain["runs"]] == [1, 2]
    test = comparison["tests"]["attention"]
    assert list(comparison["tests"]) == ["attention"]
    assert set(test["bleu"]["seeds"]) == {"1", "2"}
    difference = comparison["variants"]["attention"]["scores"]["bleu"]["mean"] - plain["scores"]["bleu"]["mean"]
    assert test["bleu"]["value"] == pytest.approx(difference, abs=1e-5)
    assert test["bleu"]["p"] < 0.01
    assert test["gap"]["joined"] == [1, 2, 3]
    assert test["gap"]["slope"]["value"] > 0
    assert test["gap"]["slope"]["p"] < 0.01
    assert comparison["variants"]["attention"]["attention_report"] == {
        "alignment.sentences": {"mean": 100, "deviation": 0.0},
        "empty": {"mean": 0.25, "deviation": 0.0},
        "attention.hypotheses.t.entropy": {"mean": 2.5, "deviation": pytest.approx(0.707107)},
        "attention.hypotheses.uniform.entropy": {"mean": 2.0, "deviation": 0.0},
    }
    assert plain["attention_report"] == {}


def test_recall_ablations_and_alignment(reports: dict[str, Any]) -> None:
    """Means over seeds of what evaluate and analyze_attention report; recall is tested class by class."""
    variants, test = reports["variants"], reports["tests"]["attention"]
    scores = [files.read_json(paths.scores("attention", seed)) for seed in (1, 2)]
    for name in ("frozen", "uniform"):
        mean = sum(one["ablations"][name]["bleu"] for one in scores) / 2
        assert variants["attention"]["ablations"][name]["mean"] == pytest.approx(mean, abs=1e-5)
        assert mean < variants["attention"]["scores"]["bleu"]["mean"]
    assert variants["plain"]["ablations"] == {}
    assert variants["plain"]["alignment"] is None
    erasure, nothing = variants["attention"]["alignment"]
    assert erasure["aer"] == {"mean": 0.3, "deviation": 0.0}
    assert nothing["aer"] is erasure["recall"] is None
    assert sum(row["words"] for row in variants["plain"]["by_frequency"]) == sum(
        len(record["references"][0].split()) for record in files.read_json_lines(paths.prepared_records("test"))
    )
    recall = [variants[name]["by_frequency"] for name in ("attention", "plain")]
    for one, other, effect in zip(*recall, test["recall"], strict=True):
        if one["recall"] is None:
            assert effect is None
        else:
            difference = one["recall"]["mean"] - other["recall"]["mean"]
            assert effect["value"] == pytest.approx(difference, abs=1e-5)
            assert effect["low"] <= effect["value"] <= effect["high"]
    text = files.read_text(paths.COMPARISON / "comparison.md")
    for title in ("Are rare words recalled?", "Attention disturbed", "Word alignment"):
        assert f"## {title}" in text
    assert "| attention | erasure argmax | 0.500 |  | 0.300 |" in text
    lines = files.read_lines(paths.COMPARISON / "ablations.csv")
    assert lines[0] == "run,variant,seed,attention,bleu,low,high"
    assert [line.split(",")[3] for line in lines[1:]] == ["whole", "frozen", "uniform"] * 2


def test_comparison_of_one_seed_has_intervals(reports: dict[str, Any]) -> None:
    """A single seed keeps the bootstrap interval; other seeds and variants in the folders are not read."""
    (paths.SCORES / "plain" / "2.json").write_text("broken")
    comparison = compared(one_seed)
    bleu = comparison["variants"]["plain"]["scores"]["bleu"]
    report = files.read_json(paths.scores("plain", 1))["bleu"]
    assert bleu == {"mean": report["score"], "deviation": None, "low": report["low"], "high": report["high"]}
    assert "seeds" not in comparison["tests"]["attention"]["bleu"]


def test_an_ensemble_stands_beside_its_models(reports: dict[str, Any]) -> None:
    """Its own row, interval and test against the mean of its models, in every text; without it nothing changes."""
    without = snapshot(paths.COMPARISON)
    assert "ensembles" not in reports
    own = [record["references"][0] for record in files.read_json_lines(paths.prepared_records("test"))]
    source, folder = random.Random(7), paths.translations("attention", paths.ENSEMBLE)
    shutil.copytree(paths.translations("attention", 1), folder)
    for ablation in folder.glob("ablation.*"):
        ablation.unlink()
    files.write_lines(folder / "hypotheses.txt", [garbled(own[0], 1.0, source), *own[1:]])
    write_params(lambda params: params.update(ensembles=["attention"]))
    evaluate_ensemble.main("attention")
    compare.main()
    comparison = files.read_json(paths.COMPARISON / "comparison.json")
    one = comparison.pop("ensembles")["attention"]
    assert comparison == reports
    scores = files.read_json(paths.scores("attention", paths.ENSEMBLE))
    assert scores["seeds"] == [1, 2]
    assert scores["result_ids"] == [files.read_json(paths.scores("attention", n))["result_id"] for n in (1, 2)]
    bleu = scores["bleu"]
    assert one["scores"]["bleu"] == {"mean": bleu["score"], "deviation": None, "low": bleu["low"], "high": bleu["high"]}
    assert (one["models"], one["parameters"]) == (2, 2 * 1_234_567)
    single = comparison["variants"]["attention"]["scores"]["bleu"]["mean"]
    assert one["tests"]["bleu"]["value"] == pytest.approx(bleu["score"] - single, abs=1e-5)
    assert one["tests"]["bleu"]["p"] < 0.05
    shown = f"{bleu['score']:.2f} [{bleu['low']:.2f}, {bleu['high']:.2f}]"
    text = files.read_text(paths.COMPARISON / "comparison.md")
    titles = ["attention, seed 1", "attention, seed 2", "**attention, ensemble of 2**"]
    assert re.findall(r"(?m)^\| (\S*attention, \w+ [\w ]*\d\S*) \|", text) == titles
    assert f"| **attention, ensemble of 2** | {shown} |" in text
    assert "**attention, ensemble of 2** is better than the mean of its models: " in text
    table = reporting.readme_table(files.read_json(paths.COMPARISON / "comparison.json"))
    assert f"| **attention, ensemble of 2** | 2,469,134 | {shown} |" in table
    assert "In an ensemble's brackets: its 95% bootstrap interval." in table
    changed = {name for name, content in snapshot(paths.COMPARISON).items() if content != without[name]}
    assert {Path(name).name for name in changed} == {files.SEAL, "comparison.json", "comparison.md"}


def test_an_ensemble_of_other_seeds_is_refused(reports: dict[str, Any]) -> None:
    """Scores that are left from other seeds, or none, are named with the stage that makes them."""
    write_params(lambda params: params.update(ensembles=["attention"]))
    with pytest.raises(UserError, match=r"ensemble\.json does not exist; run `dvc repro evaluate_ensemble@attention`"):
        compare.main()
    scores = files.read_json(paths.scores("attention", 1))
    files.write_json(paths.scores("attention", paths.ENSEMBLE), scores | {"seeds": [1, 3]})
    with pytest.raises(UserError, match=r"is of the seeds \[1, 3\], not of \[1, 2\]"):
        compare.main()


def test_a_single_variant_is_compared_with_nothing(reports: dict[str, Any]) -> None:
    """One variant, no joined sentences, no examples: the report says what is left."""
    folder = paths.translations("plain", 1)
    files.write_json_lines(folder / "joined.jsonl", [])

    def edit(params: dict[str, Any]) -> None:
        one_seed(params)
        params["variants"].pop("attention")
        params["compare"]["examples"] = 0

    comparison = compared(edit)
    assert comparison["tests"] == {}
    assert comparison["examples"] == []
    text = files.read_text(paths.COMPARISON / "comparison.md")
    for absent in ("chance", "Joined", "Output and", "Examples", "disturbed", "Word alignment"):
        assert absent not in text
    assert not (paths.COMPARISON / "joined.png").exists()


def test_one_variant_has_no_gap_to_draw(reports: dict[str, Any]) -> None:
    """Its joined sentences are a table alone, and the page does not point at a figure that is not there."""

    def edit(params: dict[str, Any]) -> None:
        one_seed(params)
        params["variants"].pop("attention")

    compared(edit)
    text = files.read_text(paths.COMPARISON / "comparison.md")
    assert "## Joined sentences" in text
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert shown
    assert all((paths.COMPARISON / name).exists() for name in shown)


def test_examples_are_spread_over_lengths(reports: dict[str, Any]) -> None:
    """Examples are the middle sentences of equally large classes of length, with ids and the first seed's words."""
    comparison = reports
    assert [one["row"] for one in comparison["examples"]] == [25, 75, 6, 56, 106]  # the 13th of each 24 by length
    for one in comparison["examples"]:
        row = one["row"]
        assert (one["source_id"], one["reference_id"]) == (str(1000 + row), str(2000 + row))
        assert one["reference"] == files.read_json_lines(paths.prepared_records("test"))[row]["references"][0]
        words = files.read_lines(paths.translations("attention", 1) / "hypotheses.txt")[row]
        assert one["hypotheses"]["attention"] == words
    text = files.read_text(paths.COMPARISON / "comparison.md")
    assert "CC BY 2.0 FR" in text
    assert f"https://tatoeba.org/sentences/show/{comparison['examples'][0]['source_id']}" in text


def test_long_tables_name_the_run(reports: dict[str, Any]) -> None:
    """The CSV files have one row per run and step, so that one plot overlays all runs."""
    curves = files.read_lines(paths.COMPARISON / "curves.csv")
    assert curves[0] == "run,variant,seed,epoch,updates,dev_loss"
    assert curves[1] == "plain-1,plain,1,1,50,2.9"
    assert len(curves) == 1 + 2 * 4
    by_length = files.read_lines(paths.COMPARISON / "by_length.csv")
    assert by_length[0].startswith("run,variant,seed,length,low,high,sentences,bleu,")
    assert len(by_length) == 1 + 4 * 4
    joined = files.read_lines(paths.COMPARISON / "joined.csv")
    assert joined[0].startswith("run,variant,seed,joined,sentences,bleu,")
    assert len(joined) == 1 + 3 * 4


def test_markdown_shows_the_numbers_of_the_json(reports: dict[str, Any]) -> None:
    """Tables are rectangular and hold the scores, the verdict and the signatures."""
    comparison = compared(one_seed)
    text = files.read_text(paths.COMPARISON / "comparison.md")
    bleu = comparison["variants"]["attention"]["scores"]["bleu"]
    assert f"{bleu['mean']:.2f} [{bleu['low']:.2f}, {bleu['high']:.2f}]" in text
    assert "**attention** is better than **plain**" in text
    assert "| parameters | 1,234,567 | 1,234,567 |" in text
    assert "| 1.50 × 10¹⁵ |" in text
    assert "There is no report on `plain`." in text
    assert "|  | `t` | `uniform` |\n| :-- | --: | --: |\n| `entropy` | 2 | 2 |" in text
    assert all(signature in text for signature in comparison["signatures"].values())
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    for figure in re.findall(r"\]\((\w+\.png)\)", text):
        assert (paths.COMPARISON / figure).stat().st_size > 1000
    assert "\n\n\n" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        (paths.prepared_records("test"), "prepare"),
        (paths.scores("attention", 2), "evaluate@attention-2"),
        (paths.training_report("plain", 1) / "history.csv", "train@plain-1"),
        (paths.translations("attention", 1) / "joined.jsonl", "translate@attention-1"),
    ],
)
def test_a_missing_file_names_its_stage(reports: dict[str, Any], missing: Path, stage: str) -> None:
    """The error says which file is missing and which stage makes it."""
    missing.unlink()
    before = snapshot(paths.COMPARISON)
    with pytest.raises(UserError, match=re.escape(f"{missing} does not exist; run `dvc repro {stage}`")):
        compare.main()
    assert snapshot(paths.COMPARISON) == before


def test_translations_of_another_test_set_are_refused(reports: dict[str, Any]) -> None:
    """Fewer hypotheses than sentences are an error, not a score of the rest."""
    path = paths.translations("plain", 1) / "hypotheses.txt"
    files.write_lines(path, files.read_lines(path)[1:])
    with pytest.raises(UserError, match=r"has 119 lines, the test set 120; run `dvc repro translate@plain-1`"):
        evaluate.main("plain", 1)


def test_scores_measured_differently_are_refused(reports: dict[str, Any]) -> None:
    """Numbers with different signatures are not put side by side."""
    report = files.read_json(paths.scores("plain", 2))
    report["bleu"]["signature"] = report["bleu"]["signature"].replace("13a", "zh")
    files.write_json(paths.scores("plain", 2), report)
    with pytest.raises(UserError, match="bleu was not measured in one way"):
        compare.main()


def test_readme_table_is_written_between_the_markers(reports: dict[str, Any]) -> None:
    """The command replaces the block, a second call changes nothing, and what stands around it stays."""
    comparison = reports
    around = f"# Title\n\n{reporting.README_BEGIN}\nold\n{reporting.README_END}\n\nend\n"
    readme.README.write_text(around)
    assert readme.run(None) == 0  # type: ignore[arg-type]
    text = files.read_text(readme.README)
    assert text.startswith("# Title\n")
    assert text.endswith("\n\nend\n")
    assert "old" not in text
    assert reporting.readme_table(comparison) in text
    assert readme.with_table(text, reporting.readme_table(comparison)) == text
    assert re.search(r"\| \*\*attention\*\* \| 1,234,567 \| \d+\.\d\d ± \d+\.\d\d \|", text)
    readme.README.write_text("# Title\n")
    with pytest.raises(UserError, match="results:begin"):
        readme.run(None)  # type: ignore[arg-type]


def test_texts_are_literal_in_markdown() -> None:
    """Signs that Markdown reads are escaped, so a sentence shows as it is."""
    assert markdown.literal(" a*b|c `d` [e] <f> 我 ") == r"a\*b\|c \`d\` \[e\] \<f\> 我"


@pytest.mark.parametrize(
    ("p", "value", "words"),
    [(0.0009, 1.0, "better than"), (0.04, -1.0, "worse than"), (0.05, 1.0, "not told from chance against")],
)
def test_verdict(p: float, value: float, words: str) -> None:
    """A test is put into words by its p and its sign, at the level of the intervals."""
    assert reporting.judge({"p": p, "value": value}, {"confidence": 0.95}) == words


def test_numbers_in_words() -> None:
    """Numbers are written for reading."""
    assert markdown.power(1.234e15) == "1.23 × 10¹⁵"
    assert markdown.signed(-1.234) == "−1.23"
    assert markdown.signed(2) == "+2.00"
    assert markdown.whole(1234567.4) == "1,234,567"
    assert markdown.listing(["a"]) == "a"
    assert markdown.listing([1, 2, 3], capital=True) == "1, 2 and 3"
    assert json.dumps(markdown.measured({"mean": 1.0, "deviation": 0.5}, markdown.points)) == '"1.00 \\u00b1 0.50"'

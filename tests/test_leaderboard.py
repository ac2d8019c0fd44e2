"""Results of several states of the project become one ranked table."""

import json
from typing import Any

import pytest

from nmt import leaderboard
from nmt.errors import UserError
from nmt.leaderboard import Snapshot

PARAMS = "variants: {plain: {attention: none}}\nseeds: [1]\ntrain: {learning_rate: RATE, betas: [0.9, 0.98]}\n"


def _scores(result: str, bleu: float, ter: float = 50.0, signature: str = "nrefs:1") -> dict[str, Any]:
    metric = {"signature": signature}
    return {
        "result_id": result,
        "variant": "plain",
        "seed": 1,
        "bleu": metric | {"score": bleu, "low": bleu - 1, "high": bleu + 1},
        "chrf": metric | {"score": 40.0, "low": 39.0, "high": 41.0},
        "ter": metric | {"score": ter, "low": ter - 2, "high": ter + 2},
        "perplexity_per_token": 8.0,
    }


def _snapshot(
    name: str, scores: dict[str, Any], rate: str = "0.005", test_set: str = "aa", locked_rate: str | None = None
) -> Snapshot:
    deps = f"deps: [{{path: data/prepared/test.jsonl, md5: {test_set}}}]"
    made_with = f"params: {{params.yaml: {{train.learning_rate: {locked_rate or rate}}}}}"
    texts = {
        "params.yaml": PARAMS.replace("RATE", rate),
        "dvc.lock": f"stages: {{train@plain-1: {{{made_with}}}, evaluate@plain-1: {{{deps}}}}}",
        "reports/scores/plain/1.json": json.dumps(scores),
        "reports/scores/other/1.json": json.dumps({"left over": True}),
    }
    return Snapshot.of(name, texts)


def test_the_best_comes_first_and_a_result_counts_once() -> None:
    """By BLEU the highest, by TER the lowest; a result that two states hold stands under the first one's name."""
    states = [
        _snapshot("HEAD", _scores("a" * 16, 20.0, ter=60.0)),
        _snapshot("same", _scores("a" * 16, 20.0, ter=60.0)),
        _snapshot("faster", _scores("b" * 16, 22.0, ter=70.0), rate="0.01"),
    ]
    ranked = leaderboard.leaderboard(states, "bleu")
    assert [row["experiment"] for row in ranked.rows] == ["faster", "HEAD"]
    assert [row["parameters"] for row in ranked.rows] == ["train.learning_rate=0.01", ""]
    assert [row["experiment"] for row in leaderboard.leaderboard(states, "ter").rows] == ["HEAD", "faster"]
    assert ranked.left_out == 0


def test_only_results_on_one_test_set_are_ranked() -> None:
    """Another test set, or another way of scoring, gives numbers that cannot be compared: they are counted only."""
    states = [
        _snapshot("HEAD", _scores("a" * 16, 20.0)),
        _snapshot("other-data", _scores("b" * 16, 90.0), test_set="bb"),
        _snapshot("other-metric", _scores("c" * 16, 90.0, signature="nrefs:2")),
    ]
    ranked = leaderboard.leaderboard(states, "bleu")
    assert [row["experiment"] for row in ranked.rows] == ["HEAD"]
    assert ranked.left_out == 2


def test_without_results_of_the_present_commit_the_next_ones_are_ranked() -> None:
    """On one test set all the same."""
    states = [
        Snapshot("HEAD", {}, {}, []),
        _snapshot("one", _scores("a" * 16, 20.0)),
        _snapshot("other-data", _scores("b" * 16, 90.0), test_set="bb"),
    ]
    ranked = leaderboard.leaderboard(states, "bleu")
    assert [row["experiment"] for row in ranked.rows] == ["one"]
    assert ranked.left_out == 1


def test_scores_that_other_parameters_made_are_nobodys() -> None:
    """An experiment that ran only some stages still holds its commit's scores of the other models."""
    states = [
        _snapshot("HEAD", _scores("a" * 16, 20.0)),
        _snapshot("of-attention-only", _scores("b" * 16, 19.0), rate="0.01", locked_rate="0.005"),
    ]
    assert [row["experiment"] for row in leaderboard.leaderboard(states, "bleu").rows] == ["HEAD"]
    texts = {"params.yaml": PARAMS.replace("RATE", "1"), "reports/scores/plain/1.json": json.dumps(_scores("c", 9.0))}
    assert not Snapshot.of("without a lock", texts).scores
    assert not Snapshot.of("never evaluated", {**texts, "dvc.lock": "stages: {train@plain-1: {}}"}).scores


@pytest.mark.parametrize(
    "params", ["seeds: 1\nvariants: {}\n", "variants: {a: {}}\n", "- 1\n", "seeds: [1]\nvariants:\n"]
)
def test_parameters_without_models_are_told(params: str) -> None:
    """With the state whose they are."""
    with pytest.raises(UserError, match=r"params\.yaml of old names no variants, or no list of seeds"):
        Snapshot.of("old", {"params.yaml": params})


def test_the_table_survives_the_file() -> None:
    """What `--save` writes reads back as the same table, intervals included."""
    import csv
    import io

    rows = leaderboard.leaderboard([_snapshot("HEAD", _scores("a" * 16, 20.0))], "bleu").rows
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    assert leaderboard.table(leaderboard.from_csv(buffer.getvalue())) == leaderboard.table(rows)
    header, cells = leaderboard.table(rows)
    assert dict(zip(header, cells[0], strict=True))["BLEU"] == "20.00 [19.00, 21.00]"
    assert leaderboard.plain_text(rows).splitlines()[1].split()[:3] == ["1", "HEAD", "plain"]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, ""),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b=2"),
        ({"a": {"b": [1]}}, {"a": {"b": [1, 2]}, "c": "x"}, "a.b=[1,2] c=x"),
        ({}, {"a": {"b": True}}, "a.b=true"),
    ],
)
def test_changed_parameters(before: dict[str, Any], after: dict[str, Any], text: str) -> None:
    """Named by their full keys, as `--set-param` takes them."""
    assert leaderboard.changed(before, after) == text

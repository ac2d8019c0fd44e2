"""Records that stages hand on: what is there in a run's results is taken, what lacks something is named."""

from typing import Any

import pytest

from nmt import files, records
from nmt.errors import UserError
from tests.project import ROOT

SCORES = ROOT / "reports" / "scores" / "attention" / "1.json"
ANALYSIS = ROOT / "reports" / "attention" / "attention" / "1" / "summary.json"
ROWS = [
    (SCORES, records.Scores, ("by_length", 0), "mean_length"),
    (SCORES, records.Scores, ("joined", 1), "bleu"),
    (SCORES, records.Scores, ("by_frequency", 2), "high"),
    (SCORES, records.Scores, ("ablations", "uniform"), "low"),
    (ANALYSIS, records.Analysis, ("alignment", "rows", 0), "method"),
    (ANALYSIS, records.Analysis, ("influence", "hypotheses", "erasure_gradient"), "tau"),
]


@pytest.mark.parametrize(("path", "kind", "place", "column"), ROWS, ids=[row[3] for row in ROWS])
def test_a_row_of_other_columns_is_refused(path: Any, kind: type[records.Record], place: Any, column: str) -> None:
    """One that lacks a column is told by its place: a table of it could not be made."""
    row = content = records.read_one(path, kind)
    for key in place:
        row = row[key]
    row[f"{column}x"] = row.pop(column)
    with pytest.raises(UserError, match=rf"^here: {'.'.join(map(str, place))}\.{column}: "):
        records.check(content, kind, "here")


def test_a_row_of_more_columns_is_refused() -> None:
    """Its table would have no place for them."""
    content = records.read_one(SCORES, records.Scores)
    content["joined"][1]["surprise"] = 1.0
    with pytest.raises(UserError, match=r"^here: joined\.1\.surprise: "):
        records.check(content, records.Scores, "here")


def test_an_estimate_is_known_with_its_interval() -> None:
    """A number without its interval could not be printed; neither known is none."""
    content = records.read_one(SCORES, records.Scores)
    row = content["by_frequency"][0]
    for name, whole in {"recall": False, "recall_low": False, "recall_high": True}.items():
        row[name] = None
        if whole:
            records.check(content, records.Scores, "here")
            continue
        with pytest.raises(
            UserError, match=r"^here: by_frequency\.0: .*of recall, recall_low, recall_high some are null"
        ):
            records.check(content, records.Scores, "here")


@pytest.mark.parametrize("path", sorted((ROOT / "reports").glob("scores/*/*.json")), ids=lambda path: path.parent.name)
def test_the_committed_scores_are_records(path: Any) -> None:
    """Those of the last full run."""
    assert records.read_one(path, records.Scores) == files.read_json(path)

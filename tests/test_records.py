"""Records that stages hand on: what is there in a run's results is taken, what lacks something is named."""

import copy
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
]


@pytest.mark.parametrize(("path", "kind", "place", "column"), ROWS, ids=[row[3] for row in ROWS])
def test_a_row_of_other_columns_is_refused(path: Any, kind: type[records.Record], place: Any, column: str) -> None:
    """One that lacks a column, or has another, is told by its place: tables of it could not be made."""
    content = records.read_one(path, kind)
    for wrong in (lambda row: row.pop(column), lambda row: row.update({f"{column}x": 1})):
        changed = row = copy.deepcopy(content)
        for key in place:
            row = row[key]
        wrong(row)
        with pytest.raises(UserError, match=rf"^here: {'.'.join(map(str, place))}\.{column}"):
            records.check(changed, kind, "here")


@pytest.mark.parametrize("path", sorted((ROOT / "reports").glob("scores/*/*.json")), ids=lambda path: path.parent.name)
def test_the_committed_scores_are_records(path: Any) -> None:
    """Those of the last full run."""
    assert records.read_one(path, records.Scores) == files.read_json(path)

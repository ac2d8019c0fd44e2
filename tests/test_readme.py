"""The README tells what was measured."""

from pathlib import Path

import pytest

from nmt import paths, reporting
from nmt.commands.readme import README, with_table
from nmt.files import read_json, read_text

ROOT = Path(__file__).parent.parent


def test_result_table_is_the_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's result table is what reports/comparison says; `nmt readme` brings it up to date."""
    monkeypatch.chdir(ROOT)
    comparison = read_json(paths.COMPARISON / "comparison.json")
    text = read_text(README)
    assert with_table(text, reporting.readme_table(comparison)) == text

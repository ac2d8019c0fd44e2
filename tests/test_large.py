"""The synthetic corpora on which time and memory are measured are what their description says."""

from pathlib import Path

import pytest

from nmt import paths, processes
from nmt.files import read_json
from nmt.stages import fetch, prepare
from tests import large


def test_copies_are_copies_for_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drops the share of duplicates that was asked for, in a corpus of several blocks, and nothing else."""
    monkeypatch.setattr(large, "AT_ONCE", 3_000)
    monkeypatch.setattr(large, "WORDS", 5_000)
    monkeypatch.setenv(processes.PROCESSES, "1")
    large.write_project(tmp_path, 20_000)
    monkeypatch.chdir(tmp_path)
    fetch.main()
    prepare.main()
    report = read_json(paths.CORPUS_REPORT)
    dropped = report["dropped_from_train"]
    share = dropped["duplicate"] / (report["pairs"]["train"] + dropped["duplicate"])
    assert share == pytest.approx(large.COPIES, abs=0.005)
    assert not any(count for reason, count in dropped.items() if reason != "duplicate")


@pytest.mark.parametrize("count", [1, 3, 1_000, 2_500])
def test_each_block_has_its_copies(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the line, however long the last block is; and the corpus is the same each time."""
    monkeypatch.setattr(large, "AT_ONCE", 1_000)
    monkeypatch.setattr(large, "WORDS", 1_000)
    blocks = list(large.synthetic_lines(count))
    assert blocks == list(large.synthetic_lines(count))
    seen: set[bytes] = set()
    for block in blocks:
        lines = block.splitlines()
        assert len(lines) - len(set(lines)) == round(large.COPIES * len(lines))
        assert seen.isdisjoint(lines)
        seen.update(lines)
    assert sum(block.count(b"\n") for block in blocks) == count

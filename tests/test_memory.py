"""The data stages hold numbers of a corpus in memory, not its text."""

import sys
from pathlib import Path

import pytest

from tests.large import measured, write_project
from tests.project import edit_yaml

PAIRS = (300_000, 900_000)
"""Five chunks and fourteen. Over the first four, `fetch` grows by 30 MB that the allocator does not give back: smaller
corpora than these would measure that."""
BYTES_PER_PAIR = {"fetch": 60, "prepare": 150, "tokenize": 60}
"""How much anonymous memory may grow with a pair. Its text takes 180 in a file, and about 1,500 as Python strings."""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
def test_memory_grows_by_less_than_the_text(tmp_path: Path) -> None:
    """Between two corpora of several chunks, in one process."""
    peaks = []
    for pairs in PAIRS:
        folder = tmp_path / str(pairs)
        write_project(folder, pairs)
        edit_yaml(folder / "params.yaml", {"tokenize.training_characters": 1_000_000})
        runs = {stage: measured(["-m", f"nmt.stages.{stage}"], folder, NMT_PROCESSES="1") for stage in BYTES_PER_PAIR}
        peaks.append({stage: cost.anonymous_mib * 2**20 for stage, cost in runs.items()})
    growth = {stage: (peaks[1][stage] - peaks[0][stage]) / (PAIRS[1] - PAIRS[0]) for stage in BYTES_PER_PAIR}
    assert all(growth[stage] < most for stage, most in BYTES_PER_PAIR.items()), growth

"""Word links out of attention and influence, and how their quality is stated."""

import numpy as np
import pytest

from nmt import alignment, readings
from nmt.gold import parse_gold
from nmt.readings import Pair
from nmt.scoring import Bootstrap
from nmt.words import segment

BOOTSTRAP = Bootstrap(200, 0.95, 1)
SOURCE = segment(["▁a", "▁b", "▁c", "</s>"], "en")
TARGET = segment(["▁x", "▁y", "▁z", "</s>"], "en")
ATTENTION = np.array([[0.6, 0.3, 0.1, 0.0], [0.0, 0.6, 0.4, 0.0], [0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 1.0, 0.0]])
ERASURE = np.array([[0.0, 2.0, 0.0], [1.0, -3.0, 0.9], [0.0, 0.0, 4.0], [7.0, 7.0, 7.0]])
PAIR = Pair(SOURCE, TARGET, ATTENTION, {"erasure": ERASURE, "gradient": -ERASURE})


def test_every_reading() -> None:
    """By argmax and threshold, at both steps and from both influences; the diagonal beside them."""
    found = {name: alignment.format_links(links[0]) for name, links in readings.read_links([PAIR], 0.3).items()}
    assert found == {
        "diagonal": "0-0 1-1 2-2",
        "attention t argmax": "0-0 1-1",
        "attention t threshold": "0-0 1-0 1-1 2-1",
        "attention t+1 argmax": "1-0 2-2",
        "attention t+1 threshold": "1-0 2-0 2-2",
        "erasure argmax": "0-1 1-0 2-2",
        "erasure threshold": "0-1 1-0 2-1 2-2",
        "gradient argmax": "1-1",
        "gradient threshold": "1-1",
    }


def test_a_model_without_attention_has_the_influences() -> None:
    """And the same baselines."""
    plain = Pair(SOURCE, TARGET, None, {"erasure": ERASURE, "gradient": -ERASURE})
    names = list(readings.read_links([plain], 0.3))
    assert names == ["diagonal", "erasure argmax", "erasure threshold", "gradient argmax", "gradient threshold"]


def test_table_by_hand() -> None:
    """Precision, recall and AER of a row are those of `quality`; sentences are resampled for its interval."""
    gold = [parse_gold("0-0 1-1 2-2"), parse_gold("0-0 2-1-P"), parse_gold("")]
    rows = {row["method"]: row for row in readings.table([PAIR] * 3, gold, 0.3, BOOTSTRAP)}
    assert next(iter(rows)) == "uniform"
    found = rows["attention t argmax"]
    assert found["precision"] == pytest.approx(3 / 6)
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["aer"] == pytest.approx(1 - 6 / 10)
    assert 0.0 <= found["low"] < found["aer"] < found["high"] <= 1.0
    assert rows["diagonal"]["recall"] == 1.0
    same = readings.table([PAIR] * 3, [gold[0]] * 3, 0.3, BOOTSTRAP)
    assert all(row["low"] == pytest.approx(row["aer"]) == row["high"] for row in same)


def test_a_row_without_links() -> None:
    """Nothing found and nothing to find has no error rate, and no interval."""
    row = readings.row("none", alignment.link_counts([set()], [parse_gold("")]), BOOTSTRAP)
    assert row == {"method": "none", **dict.fromkeys(("precision", "recall", "aer", "low", "high"))}

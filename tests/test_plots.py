import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from nmt import plots
from nmt.plots import Series

BY_LENGTH = [
    {"low": low, "high": high, "sentences": 400, "mean_length": 0.0, "bleu": bleu, "bleu_low": 9, "bleu_high": 31}
    for low, high, bleu in ((1, 4, 30.0), (5, 5, 20.0), (6, 40, 10.0))
]
JOINED = [{"joined": size, "sentences": 9, "bleu": 25.0 - size, "low": 19.0, "high": 26.0} for size in (1, 2, 3)]

DOTS = {name: {"uniform": (0.5, 0.4, 0.6), "t+1": (0.7, 0.7, 0.8)} for name in ("plain", "大")}

FIGURES: dict[str, Callable[[Path], None]] = {
    "heatmap": lambda path: heatmap(path, "你好 ， 贝多芬 </s>"),
    "curves": lambda path: plots.curves(path, [Series("plain", [1, 2], [3.0, 2.0])], "Loss", "epoch", "nats"),
    "bleu_by_length": lambda path: plots.bleu_by_length(path, {"plain": BY_LENGTH, "大": BY_LENGTH}, "BLEU", "words"),
    "dots": lambda path: plots.dots(path, DOTS, "Links", "error rate"),
    "joined": lambda path: plots.joined(path, {"a": JOINED, "b": JOINED}, {"b": [1.0, 2.0, 4.0]}, "BLEU", "a"),
}


def heatmap(path: Path, source: str, target: str = "Hello ,", title: str = "title") -> None:
    """Draw some weights under labels that are parted by spaces."""
    sources, targets = source.split(" "), target.split(" ")
    weights = np.linspace(0.0, 1.0, len(sources) * len(targets)).reshape(len(targets), len(sources))
    plots.heatmap(path, weights, sources, targets, title)


def chunks(png: bytes) -> list[str]:
    """The names of a PNG file's chunks."""
    names, position = [], 8
    while position < len(png):
        length, name = struct.unpack(">I4s", png[position : position + 8])
        names.append(name.decode())
        position += length + 12
    return names


@pytest.mark.parametrize("name", FIGURES)
def test_same_figure_same_bytes(name: str, tmp_path: Path) -> None:
    """A figure is a PNG without text or time in it, twice the same, whatever settings the user has."""
    FIGURES[name](tmp_path / "one.png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 30}):
        FIGURES[name](tmp_path / "two.png")
    content = (tmp_path / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert set(chunks(content)) == {"IHDR", "pHYs", "IDAT", "IEND"}


@pytest.mark.parametrize("name", FIGURES)
def test_no_setting_is_changed(name: str, tmp_path: Path) -> None:
    """Global settings are after a figure what they were before."""
    before = dict(matplotlib.rcParams)
    FIGURES[name](tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before


def test_neither_pyplot_nor_zhplot_is_imported(tmp_path: Path) -> None:
    """Drawing Chinese needs no module that changes global state."""
    code = (
        "import sys, pathlib; from nmt import plots;"
        f"plots.heatmap(pathlib.Path({str(tmp_path / 'x.png')!r}), [[1.0]], ['你'], ['you'], '');"
        "print([name for name in ('matplotlib.pyplot', 'zhplot') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_chinese_shows_as_characters(tmp_path: Path) -> None:
    """Different characters give different pictures of one size: were they missing, all would be the same box."""
    pictures = []
    for number, word in enumerate(["你好", "再见", "□□"]):
        heatmap(tmp_path / f"{number}.png", f"{word} </s>")
        pictures.append(imread(tmp_path / f"{number}.png"))
    assert len({picture.shape for picture in pictures}) == 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (pictures[one] != pictures[other]).any()


@pytest.mark.parametrize(
    "text",
    [
        "$a$ $b_{$",
        "한국어 ภาษา 𠀀 😀❤️👨‍👩‍👧",
        "\u200b \u0301 \ufffd",
        "الكلمة עברית हिन्दी",
        "a\tb",
        "Käse Größe żółw ёлка",
    ],
)
def test_any_text_can_be_drawn(text: str, tmp_path: Path) -> None:
    """Neither a dollar sign nor a script without a font stops a figure, or makes matplotlib warn."""
    heatmap(tmp_path / "figure.png", text, text, title=text)
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "drawn"),
    [("你好 abc", "你好 abc"), ("한", "□"), ("e\u200b\u0301", "é"), ("\u200b", " "), ("", " "), ("a\nb", "ab")],
)
def test_drawable(text: str, drawn: str) -> None:
    """What no font has becomes a box; what has no form of its own is left out."""
    assert plots._drawable(text).replace("e\u0301", "é") == drawn


def test_weights_stand_where_they_belong(tmp_path: Path) -> None:
    """A weight is a dark cell: the first words' on the upper left, the last words' on the lower right."""
    pictures = []
    for number, weights in enumerate([[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [0, 0]]]):
        plots.heatmap(tmp_path / f"{number}.png", weights, ["a", "b"], ["c", "d"], "")
        pictures.append(imread(tmp_path / f"{number}.png")[:, :, :3].mean(axis=2))
    upper_left, lower_right, upper_right = pictures

    def centre_of_darker(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.argwhere(picture < other - 0.3).mean(axis=0)

    down, right = centre_of_darker(lower_right, upper_left) - centre_of_darker(upper_left, lower_right)
    assert down == pytest.approx(plots._CELL * plots._DPI, rel=0.1)
    assert right == pytest.approx(plots._CELL * plots._DPI, rel=0.1)
    down, right = centre_of_darker(upper_right, upper_left) - centre_of_darker(upper_left, upper_right)
    assert down == pytest.approx(0.0, abs=3.0)
    assert right == pytest.approx(plots._CELL * plots._DPI, rel=0.1)


def test_heatmap_refuses_labels_that_do_not_fit(tmp_path: Path) -> None:
    """A label too many is a bug of the caller, and no file is left."""
    with pytest.raises(AssertionError, match="does not fit"):
        plots.heatmap(tmp_path / "figure.png", np.ones((2, 2)), ["a", "b", "c"], ["d", "e"], "")
    assert list(tmp_path.iterdir()) == []


def test_an_interval_need_not_hold_its_score(tmp_path: Path) -> None:
    """A bootstrap's percentiles may both lie above the score; the bar then ends at the score."""
    odd = [row | {"low": row["bleu"] + 1.0} for row in JOINED]
    plots.joined(tmp_path / "figure.png", {"a": odd}, {}, "BLEU", "a")
    assert (tmp_path / "figure.png").exists()


def test_many_lines_look_different() -> None:
    """Thirteen lines have thirteen different looks."""
    looks = [tuple(look.values()) for look, _ in zip(plots._looks(), range(13), strict=False)]
    assert len(set(looks)) == 13


def test_dots_keep_the_order_of_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that was measured at both ends only, drawn first, does not move the end to the front."""
    labels: list[str] = []
    set_yticks = Axes.set_yticks

    def watched(axes: Axes, ticks: Sequence[int], names: list[str]) -> object:
        labels.extend(names)
        return set_yticks(axes, ticks, names)

    monkeypatch.setattr(Axes, "set_yticks", watched)
    some, all_of_them = (dict.fromkeys(names, (1.0, 0.5, 1.5)) for names in (["a", "d"], ["a", "b", "c", "d"]))
    plots.dots(tmp_path / "dots.png", {"plain": some, "attention": all_of_them}, "Study", "BLEU")
    assert labels == ["a", "b", "c", "d"]

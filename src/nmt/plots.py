"""Figures as PNG files: the same content gives the same bytes, and Chinese shows as characters.

Nothing here touches pyplot, the user's matplotlibrc or the settings of another figure.
"""

import importlib.util
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from nmt.files import atomic_write

Rows = Sequence[Mapping[str, float]]

_DPI = 120
_INK, _FAINT = "#22272e", "#d5dae0"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: told apart by all eyes
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FONTS = ("figures-chinese", "figures-other")  # names of our own, so that no installed font of the same name steps in
_SUBSTITUTE = "\u25a1"  # a hollow square, for a character that neither font has
_CELL = 0.42  # inches
_LABEL = 11  # points
_POINTS = 72  # per inch
_STYLE: dict[str, Any] = {
    "font.family": list(_FONTS),
    "font.size": 10,
    "text.parse_math": False,  # a dollar sign in a sentence is a dollar sign
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "figure.dpi": _DPI,
    "savefig.dpi": _DPI,
}


@dataclass(frozen=True)
class Series:
    """A named line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def heatmap(
    path: Path,
    weights: npt.ArrayLike,
    source_labels: Sequence[str],
    target_labels: Sequence[str],
    title: str,
) -> None:
    """Draw attention weights [T, S]: the source on top, the target down the side, darker is more.

    The scale is always 0 to 1, so figures can be compared; weights from 0.1 stand in their cells.
    """
    values = np.asarray(weights, dtype=np.float64)
    assert values.shape == (len(target_labels), len(source_labels)), f"{values.shape} does not fit the labels"
    assert values.size, "nothing to draw"
    targets, sources = values.shape
    with _figure(path, sources * _CELL, targets * _CELL, tight=True) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        mesh = axes.pcolormesh(values, cmap="Blues", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        _write_weights(axes, values)
        _label_cells(axes, source_labels, target_labels)
        axes.set_title(_drawable(title), pad=14)
        scale = figure.add_axes((1.0 + 0.2 / (sources * _CELL), 0.0, 0.12 / (sources * _CELL), 1.0))
        bar = figure.colorbar(mesh, cax=scale, ticks=[0.0, 0.5, 1.0] if targets > 2 else [0.0, 1.0])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)


def _write_weights(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    """Print each weight from 0.1 into its cell."""
    for (row, column), value in np.ndenumerate(values):
        if value >= 0.1:
            text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
            colour = "white" if value > 0.55 else _INK
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)


def _label_cells(axes: Axes, source_labels: Sequence[str], target_labels: Sequence[str]) -> None:
    """Put words at rows and columns; one that is wider than its column is stacked (Chinese) or turned."""
    axes.set_yticks(np.arange(len(target_labels)) + 0.5, [_drawable(label) for label in target_labels])
    tops = [_drawable(label) for label in source_labels]
    broad = [_width(label) * _LABEL / _POINTS > 0.95 * _CELL for label in tops]
    stacked = [too_wide and all(map(_is_wide, label)) for label, too_wide in zip(tops, broad, strict=True)]
    texts = ["\n".join(label) if upright else label for label, upright in zip(tops, stacked, strict=True)]
    axes.set_xticks(np.arange(len(source_labels)) + 0.5, texts, linespacing=1.0)
    axes.tick_params(length=0, labelsize=_LABEL, top=False, labeltop=True, bottom=False, labelbottom=False)
    for text, too_wide, upright in zip(axes.get_xticklabels(), broad, stacked, strict=True):
        text.set_rotation(90 if too_wide and not upright else 0)


def curves(path: Path, series: Sequence[Series], title: str, x_label: str, y_label: str) -> None:
    """Draw lines over a shared axis."""
    with _figure(path, 7.2, 4.2) as figure:
        axes = figure.add_subplot(title=_drawable(title), xlabel=x_label, ylabel=y_label)
        for line, looks in zip(series, _looks(), strict=False):
            axes.plot(line.x, line.y, label=_drawable(line.name), **looks)
        axes.legend()


def bleu_by_length(path: Path, scores: Mapping[str, Rows], title: str, unit: str) -> None:
    """Draw BLEU over classes of source length, measured in `unit`, for each name in `scores`.

    A row has low, high, sentences, bleu, bleu_low and bleu_high; all names have the same classes.
    """
    with _figure(path, 7.2, 4.2) as figure:
        axes = figure.add_subplot(title=_drawable(title), xlabel=f"source length ({unit})", ylabel="BLEU")
        _intervals(axes, {name: _points(rows, ("bleu", "bleu_low", "bleu_high")) for name, rows in scores.items()})
        classes = next(iter(scores.values()))
        ticks = [f"{_range(row)}\n{row['sentences']:.0f} sentences" for row in classes]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_ylim(bottom=0)
        axes.legend()


def joined(
    path: Path, scores: Mapping[str, Rows], gaps: Mapping[str, Sequence[float]], title: str, baseline: str
) -> None:
    """Draw BLEU over the number of sentences joined into one input and, beside it, the gaps over `baseline`.

    A row has joined, bleu, low and high; `gaps` has one number per row for every name but the baseline's. A name
    has one colour on both sides.
    """
    with _figure(path, 9.0, 4.0) as figure:
        left, right = figure.subplots(1, 2)
        left.set(title=_drawable(title), ylabel="BLEU")
        _intervals(left, {name: _points(rows, ("bleu", "low", "high")) for name, rows in scores.items()})
        left.legend()
        left.set_ylim(bottom=0)
        right.set(title=_drawable(f"gap over {baseline}"), ylabel="BLEU points")
        right.axhline(0.0, color=_INK, linewidth=1.0)
        for name, looks in zip(scores, _looks(), strict=False):
            if name in gaps:
                right.plot(range(len(gaps[name])), gaps[name], label=_drawable(name), **looks)
        sizes = [f"{row['joined']:.0f}" for row in next(iter(scores.values()))]
        for axes in (left, right):
            axes.set_xticks(range(len(sizes)), sizes)
            axes.set_xlabel("sentences in one input")


def dots(
    path: Path,
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    title: str,
    x_label: str,
    from_zero: bool = True,
) -> None:
    """Draw values with their intervals, (value, low, high), under each other by name; a group has one colour.

    The names are in the order of the group that has the most of them.
    """
    names = list(dict.fromkeys(name for values in sorted(groups.values(), key=len, reverse=True) for name in values))
    apart = (np.arange(len(groups)) - (len(groups) - 1) / 2) * min(0.2, 0.6 / len(groups))
    with _figure(path, 7.2, 1.2 + 0.32 * len(names) * max(1, len(groups) ** 0.5)) as figure:
        axes = figure.add_subplot(title=_drawable(title), xlabel=x_label)
        for (group, values), shift, looks in zip(groups.items(), apart, _looks(), strict=False):
            middle, low, high = np.array(list(values.values())).T
            bars = np.maximum([middle - low, high - middle], 0.0)
            places = np.array([names.index(name) for name in values]) + shift
            looks["linestyle"] = "none"
            axes.errorbar(middle, places, xerr=bars, label=_drawable(group), capsize=3, elinewidth=1.1, **looks)
        axes.set_yticks(range(len(names)), [_drawable(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x")
        if from_zero:
            axes.set_xlim(left=0)
        if len(groups) > 1:
            axes.legend()


def _intervals(axes: Axes, lines: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Draw lines with error bars, a little apart so that the bars do not hide each other."""
    apart = (np.arange(len(lines)) - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
    for (name, (middle, low, high)), shift, looks in zip(lines.items(), apart, _looks(), strict=False):
        bars = np.maximum([middle - low, high - middle], 0.0)  # a percentile interval need not hold the score itself
        x = np.arange(len(middle)) + shift
        axes.errorbar(x, middle, bars, label=_drawable(name), capsize=3, elinewidth=1.1, **looks)


def _points(rows: Rows, keys: Sequence[str]) -> npt.NDArray[np.float64]:
    """[keys, rows]."""
    return np.array([[row[key] for row in rows] for key in keys])


def _range(row: Mapping[str, float]) -> str:
    low, high = f"{row['low']:.0f}", f"{row['high']:.0f}"
    return low if low == high else f"{low}\u2013{high}"


def _looks() -> Iterator[dict[str, Any]]:
    """Colour, marker and dash of the first, second, ... line; after six, the same colours dashed."""
    for dash in itertools.chain(["-", "--", ":"], itertools.repeat("-.")):
        for colour, marker in zip(_COLOURS, _MARKERS, strict=True):
            yield {"color": colour, "marker": marker, "linestyle": dash}


@contextmanager
def _figure(path: Path, width: float, height: float, *, tight: bool = False) -> Iterator[Figure]:
    """A figure in our style, written to `path` when the block ends; `tight` grows it to what hangs over its edges."""
    _register_fonts()
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout=None if tight else "constrained")
        yield figure
        with atomic_write(path) as stream:
            # without matplotlib's version in it, the file changes only when the picture does
            figure.savefig(stream, format="png", metadata={"Software": None}, bbox_inches="tight" if tight else None)


@cache
def _font_files() -> tuple[Path, Path]:
    """Noto Sans SC out of the package zhplot, and matplotlib's own font for what that lacks."""
    package = importlib.util.find_spec("zhplot")  # found, not imported: its import changes matplotlib's settings
    folders = package.submodule_search_locations if package else None
    assert folders, "zhplot is a requirement of ours"
    chinese = Path(folders[0]) / "fonts" / "NotoSansSC-Regular.ttf"
    return chinese, Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _register_fonts() -> None:
    """Make our two fonts known to matplotlib in this process, under names that nobody else uses."""
    for name, file in zip(_FONTS, _font_files(), strict=True):
        font_manager.fontManager.ttflist.append(font_manager.FontEntry(fname=str(file), name=name, weight=400))


@cache
def _characters() -> frozenset[int]:
    """The code points that one of our fonts can draw."""
    return frozenset(itertools.chain.from_iterable(FT2Font(str(file)).get_charmap() for file in _font_files()))


def _drawable(text: str) -> str:
    """The text with a hollow square for what neither font has; marks without a form of their own are left out."""
    known = _characters()
    drawn = []
    for character in text:
        if ord(character) in known and character.isprintable():
            drawn.append(character)
        elif unicodedata.category(character) not in ("Cc", "Cf", "Mn", "Me"):
            drawn.append(_SUBSTITUTE)
    return "".join(drawn) or " "


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _width(text: str) -> float:
    """The width in ems, near enough to tell what fits a column."""
    return sum(1.0 if _is_wide(character) else 0.58 for character in text)

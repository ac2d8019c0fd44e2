"""Charts as SVG inside the page: matplotlib draws them, the page's style sheet colours them, so that dark mode holds.

The page allows no inline style, so matplotlib's `style` attributes become attributes of SVG, less colours and fonts;
what the page is to colour carries a class: `series-0`, `series-1`, ... for the variants, `grid` and `axis`.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": False,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.2,
}
_SIZE = (3.6, 2.5)  # inches: about as wide as a phone, where it is shown as it is
_COLOURS = ("fill", "stroke")
_CLASSES = ("series-", "grid", "axis")


@dataclass(frozen=True)
class Line:
    """A named line, with a band around it if it has one."""

    name: str
    colour: int
    """Which of the page's colours of variants; lines of one variant share it."""
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """Its lower and its upper edge."""
    joined: bool = True
    """False where there is nothing between two points: then they stand alone, the band is a bar for each."""


def chart(name: str, lines: Sequence[Line], x_label: str, ticks: Mapping[float, str] | None, from_zero: bool) -> str:
    """Return the `<svg>` element of lines over a shared axis; `name` must be another for each chart of a page."""
    with _figure(name) as (axes, svg):
        for line in lines:
            marker = _MARKERS[line.colour % len(_MARKERS)]
            drawn: list[Artist] = [
                *axes.plot(line.x, line.y, marker=marker, linestyle="-" if line.joined else "none", clip_on=False)
            ]
            if line.band and line.joined:
                drawn.append(axes.fill_between(line.x, *line.band, alpha=0.18, linewidth=0, clip_on=False))
            elif line.band:
                drawn.append(axes.vlines(line.x, *line.band, linewidth=1.2, clip_on=False))
            for artist in drawn:
                artist.set_gid(f"series-{line.colour}")
        if ticks:
            axes.set_xticks(list(ticks), list(ticks.values()))
        if from_zero:
            axes.set_ylim(bottom=0)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_label)
    return _inline(svg.getvalue())


@contextmanager
def _figure(name: str) -> Iterator[tuple[Axes, io.BytesIO]]:
    """Axes of our own look, whose figure is written into the buffer when the block ends."""
    svg = io.BytesIO()
    with style.context(["default", _STYLE, {"svg.hashsalt": name}]):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        yield axes, svg
        axes.spines["bottom"].set_gid("axis")
        axes.locator_params(axis="y", nbins=5)
        figure.draw_without_rendering()  # only now are all lines of the grid there
        for line in axes.get_ygridlines():
            line.set_gid("grid")
            line.set_clip_on(False)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        figure.savefig(svg, format="svg")


def _inline(svg: bytes) -> str:
    """The `<svg>` element alone, without styles, size, metadata, and names that nothing refers to."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for attribute, value in list(element.attrib.items()):
            del element.attrib[attribute]
            element.attrib.update(_attributes(attribute.rpartition("}")[2], value))
    for extra in [child for child in root if child.tag in ("metadata", "defs")]:
        root.remove(extra)
    _drop_unused_ids(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _attributes(name: str, value: str) -> dict[str, str]:
    """What an attribute of matplotlib's becomes on the page."""
    if name == "style":
        pairs = [[part.strip() for part in pair.split(":", 1)] for pair in value.split(";") if pair.strip()]
        kept = [(key, text) for key, text in pairs if not key.startswith("font")]
        return {key: text for key, text in kept if key not in _COLOURS or text == "none"}
    if name == "id" and value.startswith(_CLASSES):
        return {"class": value}
    return {name: value}


def _drop_unused_ids(root: ElementTree.Element) -> None:
    used = {element.get("href", "")[1:] for element in root.iter()}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)

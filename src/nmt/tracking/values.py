"""Nested results as MLflow's flat params, metrics and tags."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-. /]")


class Point(NamedTuple):
    """One number of a metric; `step` is 0 where the metric is no curve."""

    name: str
    step: int
    value: float
    time: int | None = None
    """Milliseconds since 1970; None is the run's start."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves under dotted names: `{"a": {"b": 1}}` becomes `{"a.b": 1}`; a list is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = _legal(f"{prefix}{key}")
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat


def points(values: Mapping[str, Any], group: str) -> Iterator[Point]:
    """Every finite number below `values`, named `group/dotted.name`.

    A list becomes a curve: its steps are the first entry of each item where that is a whole number (`{"joined": 2,
    "bleu": 20.1}` is step 2), else 0, 1, 2 ...; MLflow then draws it. Where the first entry is a text (`{"method":
    "diagonal", "aer": 0.5}`), it names the item, as a key would.
    """
    for name, value in flatten(values).items():
        for step, inner, leaf in _leaves(value):
            if isinstance(leaf, int | float) and not isinstance(leaf, bool) and math.isfinite(leaf):
                yield Point(f"{group}/{name}{inner}", step, float(leaf))


def texts(values: Mapping[str, Any], group: str) -> dict[str, str]:
    """Every text below `values` outside lists, as tags beside the metrics' names: signatures, device, precision."""
    return {f"{group}/{name}": value for name, value in flatten(values).items() if isinstance(value, str)}


def _leaves(value: Any) -> Iterator[tuple[int, str, Any]]:
    """(step, rest of the name, leaf) of what stands under one name."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        yield 0, "", value
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            yield index, "", item
            continue
        entries = flatten(item)
        first = next(iter(entries), "")
        step, title = index, ""
        if isinstance(entries.get(first), int):
            step = entries.pop(first)
        elif isinstance(entries.get(first), str):
            step, title = 0, f".{_legal(entries.pop(first))}"
        for name, leaf in entries.items():
            yield step, f"{title}.{name}", leaf


def _legal(name: str) -> str:
    return _ILLEGAL.sub("_", name)

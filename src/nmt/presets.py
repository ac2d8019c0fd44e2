"""Presets: small files of overrides for `params.yaml`, which keeps its comments.

`quick` names all that makes a recipe; every other preset names what it does otherwise. So what a preset leads to does
not depend on what was set before, and what is no part of a recipe (`runtime`, `tracking`, ...) stays as it was.
"""

import difflib
import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from nmt import paths
from nmt.config import load_yaml, parse_params
from nmt.errors import UserError
from nmt.files import read_text

BASE = "quick"


def names() -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in paths.PRESETS.glob("*.yaml"))


def overrides(name: str) -> dict[str, Any]:
    """What the file of a preset names."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
        raise UserError(f"no preset {name!r} in {paths.PRESETS}/; {hint}")
    values = load_yaml(paths.preset(name))
    if not isinstance(values, dict):
        raise UserError(f"{paths.preset(name)} holds no mapping of sections")
    return values


def applied(name: str, params: Path = paths.PARAMS) -> str:
    """The text of `params.yaml` with the values of `quick`, and then of a preset, in the places of its own."""
    if not isinstance(load_yaml(params), dict):
        raise UserError(f"{params} holds no mapping of sections; `git checkout {params}` brings it back")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # a line stays a line
    values = yaml.load(read_text(params))
    for layer in dict.fromkeys([BASE, name]):
        _override(values, overrides(layer), [], str(paths.preset(layer)))
    parse_params(_plain(values), f"{params} with {paths.preset(name)}")
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _override(values: Any, new: dict[str, Any], above: list[str], origin: str) -> None:
    for key, value in new.items():
        place = [*above, str(key)]
        if key not in values:
            near = difflib.get_close_matches(str(key), list(values), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(values)}"
            raise UserError(f"{origin}: unknown key {'.'.join(place)!r}; {hint}")
        if isinstance(value, dict) and isinstance(values[key], dict):
            _override(values[key], value, place, origin)
        elif values[key] != value:  # what is the same keeps its spelling
            if isinstance(value, list) and isinstance(values[key], list):
                values[key][:] = value  # which stays on its line, with the comment behind it
            else:
                values[key] = value


def _plain(value: Any) -> Any:
    """Mappings, lists and numbers without the marks of where they stood."""
    buffer = io.StringIO()
    YAML().dump(value, buffer)
    return YAML(typ="safe", pure=True).load(buffer.getvalue())

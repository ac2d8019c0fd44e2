"""The pins, the ranges and the version agree with each other."""

import importlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import nmt
from tests.project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-integration.lock")


def pin_lines(lock: str) -> list[str]:
    """The lines of a lock that name a package."""
    return [line for line in (ROOT / lock).read_text("utf-8").splitlines() if not line.startswith("#")]


def pins(*locks: str) -> dict[str, str]:
    """Version by normalised name."""
    pairs = (line.split("==") for lock in locks for line in pin_lines(lock))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_plain_pins(lock: str) -> None:
    """No index, no build for one machine, nothing that only some builds of PyTorch need: any index will do."""
    lines = pin_lines(lock)
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)] == []
    assert [line for line in lines if re.match(r"nvidia|cuda|triton|nmt=", line)] == []
    assert len(pins(lock)) == len(lines)


@pytest.mark.parametrize(
    ("direct", "locks"),
    [(PROJECT["dependencies"], LOCKS[:1]), (EXTRAS["dev"], LOCKS[:2]), (EXTRAS["integration"], LOCKS)],
    ids=["runtime", "development", "integration"],
)
def test_every_direct_dependency_is_pinned_within_its_range(direct: list[str], locks: tuple[str, ...]) -> None:
    """A range that was raised without `make lock`, or the other way round, is found here."""
    pinned = pins(*locks)
    for requirement in map(Requirement, direct):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_locks_share_no_package() -> None:
    """Each package has one pin."""
    assert sum(len(pins(lock)) for lock in LOCKS) == len(pins(*LOCKS))


def test_the_version_is_said_once_and_repeated_right() -> None:
    """The citation names the version of the code."""
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == nmt.__version__
    assert (
        f"## [{nmt.__version__}]" in (text := (ROOT / "CHANGELOG.md").read_text("utf-8")) or "## [Unreleased]" in text
    )


def test_the_console_command_exists() -> None:
    """`nmt` starts what pyproject.toml names."""
    module, _, function = PROJECT["scripts"]["nmt"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))

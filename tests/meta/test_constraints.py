"""constraints.txt pins everything that gets installed, and names no place it came from."""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import Final

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.meta.tree import ROOT

LINE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+\Z")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not LINE.match(line)] == []
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def test_every_package_is_pinned(pins: dict[str, str]) -> None:
    needed = {canonicalize_name(name) for name in _closure()}
    assert len(needed) > 50
    assert sorted(needed - pins.keys()) == []


def test_what_runs_here_is_the_pinned_set(pins: dict[str, str]) -> None:
    differing = {
        name: (pins[name], metadata.version(name))
        for name in map(canonicalize_name, _closure())
        if metadata.version(name) != pins[name]
    }
    assert differing == {}


def test_the_build_is_pinned_alike(pins: dict[str, str]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["build-system"]["requires"] == [f"setuptools=={pins['setuptools']}"]


def test_this_is_the_python_it_was_made_for() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    assert sys.version_info[:2] == (3, 11)


def _closure() -> set[str]:
    """Names of all distributions that the project and all its extras need, however far down."""
    direct = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        direct += extra
    waiting = [Requirement(text) for text in direct]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += _below(requirement)
    return {name for name, _ in seen}


def _below(requirement: Requirement) -> Iterator[Requirement]:
    environment = {key: str(value) for key, value in default_environment().items()}
    for text in metadata.requires(requirement.name) or []:
        lower = Requirement(text)
        extras = requirement.extras or {""}
        if lower.marker is None or any(
            lower.marker.evaluate({**environment, "extra": extra}) for extra in extras
        ):
            yield lower

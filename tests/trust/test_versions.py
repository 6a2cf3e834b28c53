"""The constraints: what `make setup` installs on a bare machine is what the suite ran with."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LINES = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
PINNED = {canonicalize_name(one.name): one for one in map(Requirement, filter(None, LINES))}


def direct() -> list[Requirement]:
    """The requirements in pyproject.toml, with every extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(text) for group in groups for text in group]
    return [one for one in found if one.name != "mnet"]


def needed() -> set[str]:
    """The names of these packages and of all packages that they need."""
    todo, seen = [(one, "") for one in direct()], set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for inner in {"", *requirement.extras} - {done for other, done in seen if other == name}:
            seen.add((name, inner))
            todo += [(Requirement(text), inner) for text in importlib.metadata.requires(name) or []]
    return {name for name, _ in seen}


def test_every_direct_dependency_has_one_version_that_pyproject_allows():
    for requirement in direct():
        (only,) = PINNED[canonicalize_name(requirement.name)].specifier
        assert only.operator == "==" and only.version in requirement.specifier, requirement


@pytest.mark.skipif(sys.platform != "linux", reason="constraints.txt lists the packages that Linux needs: run it there")
def test_whatever_those_need_has_the_version_that_is_installed_here():
    names = needed()
    assert names == set(PINNED), "constraints.txt lists what is needed, and nothing else"
    installed = {name: f"=={importlib.metadata.version(name)}" for name in names}
    assert installed == {name: str(PINNED[name].specifier) for name in names}

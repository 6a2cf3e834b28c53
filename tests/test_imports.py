"""Imports point one way: no two modules import each other, no program imports a program, layers build downwards."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("mnet.models", "mnet.weights", "mnet.quantization"),
    ("mnet.data", "mnet.training", "mnet.tasks"),
    ("mnet.latency",),
    ("mnet.studies.trial",),
    ("mnet.studies.options",),
    ("mnet.studies.runs",),
    ("mnet.studies.engines",),
    ("mnet.studies.results",),
    ("mnet.studies.claims", "mnet.studies.latency"),
    ("mnet.search",),
    ("mnet.studies.report",),
)
"""From the bottom up. A module imports nothing from a layer above its own."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "experiments" if "experiments" in path.parts else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for folder in ("mnet", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))}


@cache
def imports_of(name: str) -> set[str]:
    """The modules of this repository that a module imports, also inside functions, but not for types alone."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(PATHS[name].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in PATHS else node.module for member in members}
        pending += ast.iter_child_nodes(node)
    return (found & PATHS.keys()) - {name}


def reached_from(name: str) -> set[str]:
    reached: set[str] = set()
    pending = list(imports_of(name))
    while pending:
        if (module := pending.pop()) not in reached:
            reached.add(module)
            pending += imports_of(module)
    return reached


def test_no_two_modules_import_each_other():
    assert len(PATHS) > 150
    assert not [name for name in PATHS if name in reached_from(name)]


def test_no_program_imports_another_program():
    programs = {name for name, path in PATHS.items() if path.parent == ROOT / "experiments"}
    assert len(programs) > 15
    assert not {name: imports_of(name) & programs for name in programs if imports_of(name) & programs}


@pytest.mark.parametrize("height", range(len(LAYERS)), ids=[layer[0] for layer in LAYERS])
def test_a_layer_imports_nothing_of_the_layers_above_it(height):
    def belongs(module: str, layer: tuple[str, ...]) -> bool:
        return any(module == part or module.startswith(f"{part}.") for part in layer)

    above = [part for layer in LAYERS[height + 1 :] for part in layer]
    for name in (module for module in PATHS if belongs(module, LAYERS[height])):
        assert not {module for module in imports_of(name) if belongs(module, tuple(above))}, name


def test_training_draws_nothing():
    reached = reached_from("mnet.studies.runs.run") | reached_from("mnet.studies.runs.packs")
    assert "mnet.figures" not in reached
    assert not {name for name in reached if "altair" in PATHS[name].read_text()}

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
    ("mnet.studies.trial", "mnet.studies.sources"),
    ("mnet.studies.options",),
    ("mnet.studies.runs",),
    ("mnet.studies.engines",),
    ("mnet.studies.sweep_file",),
    ("mnet.studies.study",),
    ("mnet.studies.plan",),
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
def names_imported_by(name: str, *, at_import: bool = False) -> set[str]:
    """The modules that a module imports, except for types alone; also inside functions, unless `at_import`."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(PATHS[name].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in PATHS else node.module for member in members}
        pending += ast.iter_child_nodes(node)
    return found


def imports_of(name: str, *, at_import: bool = False) -> set[str]:
    """The modules of this repository among `names_imported_by`."""
    return (names_imported_by(name, at_import=at_import) & PATHS.keys()) - {name}


def reached_from(name: str, *, at_import: bool = False) -> set[str]:
    reached: set[str] = set()
    pending = list(imports_of(name, at_import=at_import))
    while pending:
        if (module := pending.pop()) not in reached:
            reached.add(module)
            pending += imports_of(module, at_import=at_import)
    return reached


def test_no_two_modules_import_each_other():
    assert len(PATHS) > 150
    assert not [name for name in PATHS if name in reached_from(name)]


def test_no_program_imports_another_program():
    programs = {name for name, path in PATHS.items() if path.parent == ROOT / "experiments"}
    assert len(programs) > 15
    assert not {name: imports_of(name) & programs for name in programs if imports_of(name) & programs}


def belongs(module: str, layer: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in layer)


def test_every_module_of_a_package_has_a_layer():
    modules = {name for name in PATHS if name.startswith("mnet.") and name.count(".") > 1}
    assert not {name for name in modules if not any(belongs(name, layer) for layer in LAYERS)}


@pytest.mark.parametrize("height", range(len(LAYERS)), ids=[layer[0] for layer in LAYERS])
def test_a_layer_imports_nothing_of_the_layers_above_it(height):
    above = [part for layer in LAYERS[height + 1 :] for part in layer]
    for name in (module for module in PATHS if belongs(module, LAYERS[height])):
        assert not {module for module in imports_of(name) if belongs(module, tuple(above))}, name


def test_training_draws_nothing():
    modules = {"mnet.studies.runs.run", "mnet.studies.runs.packs"}
    modules |= {name for name in PATHS if belongs(name, ("mnet.tasks",))} - {"mnet.tasks.drawing"}  # loaded by name
    reached = modules.union(*map(reached_from, modules))
    assert "mnet.figures" not in reached
    assert not {name for name in reached if "altair" in PATHS[name].read_text()}
    loaded = modules.union(*(reached_from(name, at_import=True) for name in modules))
    plotting = {name for name in loaded if any("matplotlib" in i for i in names_imported_by(name, at_import=True))}
    assert not plotting, "import mnet.tasks.drawing inside the function that draws"

"""A study from a W&B sweep file: its question, its cells, and the trials of each cell.

The file holds only what W&B's schema allows. The baseline is the first value of every list; `seed` is crossed
with every cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from mnet.errors import ConfigError, unknown
from mnet.settings import coerce, hints, parse
from mnet.studies.trial import PARAMETERS, Trial, cell_name

METRICS = ("val/top1", "val/top5", "val/loss")
KEYS = ("program", "method", "name", "description", "metric", "parameters", "command", "project", "entity")


@dataclass(frozen=True)
class Cell:
    """One variant of a study: what is set, and one trial a seed."""

    name: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Study:
    """A question, and the cells that answer it. The first cell is the baseline."""

    name: str
    description: str
    varied: tuple[str, ...]
    """The parameters that tell cells apart."""
    cells: tuple[Cell, ...]
    refused: tuple[str, ...] = ()
    """Cells of the grid that the family cannot build, with the reason."""

    @property
    def baseline(self) -> str:
        return self.cells[0].name

    @property
    def trials(self) -> list[tuple[Cell, Trial]]:
        """Seed by seed, so that every cell has a first result early."""
        seeds = max(len(cell.trials) for cell in self.cells)
        return [(cell, cell.trials[i]) for i in range(seeds) for cell in self.cells if i < len(cell.trials)]


def load_study(path: Path, overrides: Mapping[str, Sequence[object]] | None = None) -> Study:
    """Read a sweep file.

    Args:
        path: The YAML file; its stem is the study's name.
        overrides: Parameter -> values that replace the file's.

    Raises:
        ConfigError: The file is missing or not a grid sweep, or a parameter or value is wrong. The message says
            which, with line and nearest spelling.
    """
    if not path.is_file():
        raise unknown("study", path.stem, sorted(file.stem for file in path.parent.glob("*.yaml")))
    try:
        source = path.read_text()
        content, lines = yaml.safe_load(source), key_lines(source)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    try:
        grid = read_grid(content, lines)
    except Misplaced as error:
        raise ConfigError(f"{path}, line {error.line}: {error}") from None
    for name, values in (overrides or {}).items():
        if name not in PARAMETERS:
            raise unknown("parameter", name, PARAMETERS)
        grid[name] = [coerce(name, value, hints(Trial)[name]) for value in values]
    return build(path.stem, str(content.get("description", "")), grid)


def build(name: str, description: str, grid: Mapping[str, Sequence[object]]) -> Study:
    """Cross all values of a grid. A cell that the family refuses is left out and reported; the baseline may not be."""
    seeds = grid.get("seed", [0])
    varied = tuple(key for key, values in grid.items() if len(values) > 1 and key != "seed")
    fixed = {key: values[0] for key, values in grid.items() if key not in (*varied, "seed")}
    cells, refused = [], []
    for i, values in enumerate(itertools.product(*(grid[key] for key in varied))):
        settings = dict(zip(varied, values, strict=True))
        label = cell_name(settings) if settings else str(fixed.get("model", name))
        try:
            trials = tuple(parse(Trial, {**fixed, **settings, "seed": seed}, "parameter") for seed in seeds)
        except ConfigError as error:
            if i == 0:
                raise ConfigError(f"study {name}: the baseline cell ({label}) cannot be built: {error}") from None
            refused.append(f"{label}: {error}")
            continue
        cells.append(Cell(label, trials))
    return Study(name, description, varied, tuple(cells), tuple(refused))


class Misplaced(ConfigError):
    """An error with the line of the sweep file that it is on."""

    def __init__(self, line: int, message: object) -> None:
        super().__init__(str(message))
        self.line = line


def read_grid(content: object, lines: Mapping[tuple[str, ...], int]) -> dict[str, list[object]]:
    """Parameter -> its values, checked."""
    if not isinstance(content, dict):
        raise Misplaced(1, "a sweep file is a mapping with `method`, `metric` and `parameters`")
    for key in content:
        if key not in KEYS:
            raise Misplaced(lines[(key,)], unknown("key", key, KEYS))
    if content.get("method") != "grid":
        message = f"method {content.get('method')!r} needs W&B's own agent; only 'grid' runs here"
        raise Misplaced(lines.get(("method",), 1), message)
    metric = content.get("metric", {}).get("name")
    if metric not in METRICS:
        raise Misplaced(lines.get(("metric", "name"), 1), unknown("metric", metric, METRICS))
    grid: dict[str, list[object]] = {}
    for name, entry in cast(dict, content.get("parameters") or {}).items():
        line = lines[("parameters", name)]
        if name not in PARAMETERS:
            raise Misplaced(line, unknown("parameter", name, PARAMETERS))
        if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ("value", "values"):
            raise Misplaced(line, f"{name} needs either `value:` or `values:`, not {entry!r}")
        values = entry["values"] if "values" in entry else [entry["value"]]
        if not isinstance(values, list) or not values:
            raise Misplaced(line, f"the values of {name} must be a list with at least one value")
        try:
            grid[name] = [coerce(name, value, hints(Trial)[name]) for value in values]
        except ConfigError as error:
            raise Misplaced(line, error) from None
    return grid


def key_lines(source: str) -> dict[tuple[str, ...], int]:
    """The line of every key, by its path."""
    found: dict[tuple[str, ...], int] = {}

    def visit(node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, str(key.value))
                found[here] = key.start_mark.line + 1
                visit(value, here)

    visit(yaml.compose(source, yaml.SafeLoader), ())
    return found

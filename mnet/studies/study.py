"""A study from a W&B sweep file: its question, its cells, and the trials of each cell.

The file holds only what W&B's schema allows. The baseline is the first value of every list, and `seed` is crossed with
every cell. A profile sets the scale: it overrides the file, and the command line overrides both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from mnet.errors import ConfigError, shown, text, unknown
from mnet.settings import check_names
from mnet.studies.options import OPTIONS, VARIANT, cell_name, read_option, read_variant, trial_from
from mnet.studies.runs.store import check_name
from mnet.studies.sources import Place, Source, read_source
from mnet.studies.sweep_file import METRICS, check_sweep, read_grid
from mnet.studies.trial import Trial
from mnet.tasks import Task

__all__ = ["METRICS", "Cell", "Study", "check_sweep", "lay_over", "list_studies", "load_profile", "load_study"]

MOST_RUNS = 100_000
"""Limit for one study: a hundred times the size of the largest."""

Overrides = Mapping[str, Sequence[object]]
"""Option -> values that replace those of a file."""


@dataclass(frozen=True)
class Cell:
    """One variant of a study, with one trial per seed."""

    name: str
    trials: tuple[Trial, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    """The values of the options that the study varies."""


@dataclass(frozen=True)
class Study:
    """A question, and the cells that answer it. The first cell is the baseline."""

    name: str
    description: str
    varied: tuple[str, ...]
    """The options that vary between cells."""
    cells: tuple[Cell, ...]
    refused: tuple[str, ...] = ()
    """Cells of the grid that cannot be built, each with the reason."""

    @property
    def baseline(self) -> str:
        """The name of the first cell."""
        return self.cells[0].name

    @property
    def task(self) -> Task:
        """The task that all its networks share."""
        return self.cells[0].trials[0].task

    @property
    def trials(self) -> list[tuple[Cell, Trial]]:
        """All trials with their cells, seed by seed, so that every cell has a first result early."""
        seeds = max(len(cell.trials) for cell in self.cells)
        return [(cell, cell.trials[i]) for i in range(seeds) for cell in self.cells if i < len(cell.trials)]


def list_studies(folder: Path) -> list[str]:
    """The names of the studies in a folder of sweep files."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_study(path: Path, overrides: Overrides | None = None) -> Study:
    """Read a sweep file.

    Args:
        path: The YAML file; its stem is the study's name.
        overrides: Option -> values that replace the file's.

    Raises:
        ConfigError: The file is missing or not a grid sweep, or an option or value is wrong. The message names it, with
            line and nearest spelling.
    """
    if not path.is_file():
        raise unknown("study", path.stem, list_studies(path.parent))
    check_name("study", path.stem)
    source = read_source(path)
    grid = read_grid(source)
    for name, values in (overrides or {}).items():
        _check_runs(path.stem, {**grid, name: values})
        grid[name] = _read_values(name, values)
    _check_runs(path.stem, grid)
    _check_variants(path.stem, grid)
    description = str(cast(dict[str, object], source.content).get("description", ""))
    try:
        study = _build(path.stem, description, grid)
    except _BaselineError as error:
        raise source.error(("parameters",), error) if not overrides else error from None
    metric = cast(dict[str, dict[str, str]], source.content)["metric"]["name"]
    logged = [*(f"val/{metric.name}" for metric in study.task.metrics), "val/loss"]
    if metric not in logged:
        raise source.error(("metric", "name"), f"{study.task.name} logs no {metric}; one of {', '.join(logged)}")
    return study


def _check_runs(study: str, grid: Mapping[str, Sequence[object]]) -> None:
    """
    Raises:
        ConfigError: The study would have more than `MOST_RUNS` runs. Values are counted before they are read.
    """
    counts = {name: _count(values) for name, values in grid.items()}
    if (runs := math.prod(counts.values())) > MOST_RUNS:
        longest = max(counts, key=counts.__getitem__)
        raise ConfigError(
            f"study {study} would have {runs:.3g} runs; at most {MOST_RUNS:,} are allowed: list fewer values, "
            f"above all for {longest}, which has {counts[longest]:.3g}"
        )


def _count(values: Sequence[object]) -> float:
    try:
        return float(len(values))
    except OverflowError:  # a range of more than 2**63
        return math.inf


def _read_values(name: str, values: Iterable[object]) -> list[object]:
    """The values of an option, each checked.

    Raises:
        ConfigError: An unknown option, a value of the wrong type or listed twice, or no value.
    """
    check_names("parameter", [name], OPTIONS)
    parsed: dict[object, None] = {}
    for value in values:
        if (one := read_option(name, value)) in parsed:
            raise ConfigError(f"{name} lists {text(one)} twice")
        parsed[one] = None
    if not parsed:
        raise ConfigError(f"{name} needs at least one value")
    return list(parsed)


def _check_variants(study: str, grid: Mapping[str, Sequence[object]]) -> None:
    """
    Raises:
        ConfigError: A setting both in a variant and on its own.
    """
    for variant in map(str, grid.get(VARIANT, ())):
        for name in read_variant(variant):
            if name in grid:
                values = ",".join(map(text, grid[name]))
                raise ConfigError(
                    f"study {study}: its variant {shown(variant)} sets {name}, so {name}={values} cannot be set too; "
                    f"give other variants instead (--{VARIANT}=...,...)"
                )


class _BaselineError(ConfigError):
    """The cell that all others are compared with cannot be built."""


def _build(name: str, description: str, grid: Mapping[str, Sequence[object]]) -> Study:
    """Cross all values of a grid. A cell that cannot be built is left out and reported, unless it is the baseline."""
    varied = tuple(key for key, values in grid.items() if len(values) > 1 and key != "seed")
    fixed = {key: values[0] for key, values in grid.items() if key not in (*varied, "seed")}
    cells, refused, known = [], [], dict[tuple[str, Path], str | None]()
    for i, values in enumerate(itertools.product(*(grid[key] for key in varied))):
        options = dict(zip(varied, values, strict=True))
        label = cell_name(options) if options else str(fixed.get("model", name))
        try:
            trials = tuple(_with_images(trial_from({**fixed, **options, "seed": seed}), known) for seed in grid["seed"])
        except ConfigError as error:
            if i == 0:
                raise _BaselineError(f"study {name}: the baseline cell ({label}) cannot be built: {error}") from None
            refused.append(f"{label}: {error}")
            continue
        if not trials[0].tested:
            raise ConfigError(f"study {name}: tested=false leaves nothing to compare; remove it")
        cells.append(Cell(label, trials, options))
        _check_task(name, cells[0], cells[-1])
    return Study(name, description, varied, tuple(cells), tuple(refused))


def _with_images(trial: Trial, known: dict[tuple[str, Path], str | None]) -> Trial:
    """The trial with the fingerprint of a user's own images, computed once per data set and folder."""
    if trial.images is not None or not trial.dataset_class().is_users:
        return trial
    key = trial.dataset, trial.data_dir
    if key not in known:
        known[key] = trial.fingerprint
    return replace(trial, images=known[key])


def _check_task(study: str, baseline: Cell, cell: Cell) -> None:
    """Raises:
    ConfigError: Two cells have different tasks, so no metric in common.
    """
    tasks = [compared.trials[0].task.name for compared in (baseline, cell)]
    if tasks[0] != tasks[1]:
        raise ConfigError(
            f"study {study}: {baseline.name} is for {tasks[0]} and {cell.name} for {tasks[1]}; a study compares "
            "networks of one task: give all cells heads of the same task"
        )


def load_profile(path: Path, profile: str, study: str) -> dict[str, list[object]]:
    """What a profile sets for a study, as `overrides` of `load_study`: its entry `all`, then its entry for the study.

    Args:
        path: A YAML file of profiles, next to the folder `sweeps` with the studies that it may name.
        profile: The name of a profile in the file.
        study: The name of a study; without an entry, `all` applies.

    Raises:
        ConfigError: An unknown profile, study, option or value; with file, line and nearest spelling.
    """
    source = read_source(path)
    if not isinstance(source.content, dict) or profile not in source.content:
        raise unknown("profile", profile, source.content if isinstance(source.content, dict) else ())
    entries = _mapping(source, (profile,), source.content[profile])
    studies = ["all", *list_studies(path.parent / "sweeps")]
    for name in entries:
        if name not in studies:
            raise source.error((profile, name), unknown("study", name, studies))
    overrides: dict[str, list[object]] = {}
    for name in ("all", study):
        for option, values in _mapping(source, (profile, name), entries.get(name)).items():
            try:
                overrides[option] = _read_values(option, values if isinstance(values, list) else [values])
            except ConfigError as error:
                raise source.error((profile, name, option), error) from None
    return overrides


def studies_of_profile(path: Path, profile: str) -> list[str]:
    """The studies that a profile names, in its order.

    Args:
        path: As for `load_profile`.
        profile: The name of a profile in the file.

    Raises:
        ConfigError: An unknown profile.
    """
    content = read_source(path).content
    if not isinstance(content, dict) or profile not in content:
        raise unknown("profile", profile, content if isinstance(content, dict) else ())
    return [name for name in content[profile] if name != "all"]


def _mapping(source: Source, at: Place, content: object) -> dict[str, object]:
    """`content`, which must be a mapping or None, as a mapping."""
    if content is not None and not isinstance(content, dict):
        raise source.error(at, f"{at[-1]} must be a mapping of options, not {shown(content)}")
    return content or {}


def lay_over(content: Mapping[str, object], overrides: Overrides) -> dict[str, object]:
    """The content of a sweep file with other values, to register it with W&B under a profile.

    Args:
        content: From `check_sweep`.
        overrides: Option -> values that replace the file's.

    Raises:
        ConfigError: An unknown option, a value of the wrong type, or a setting that a variant sets too.
    """
    entries = dict(cast(dict[str, dict[str, object]], content["parameters"]))
    for name, values in overrides.items():
        plain = [
            value if isinstance(value, bool | int | float) else text(value) for value in _read_values(name, values)
        ]
        entries[name] = {"values": plain} if len(plain) > 1 else {"value": plain[0]}
    listed = {name: entry["values"] if "values" in entry else [entry.get("value")] for name, entry in entries.items()}
    _check_variants(str(content.get("name", "sweep")), cast(dict[str, list[object]], listed))
    return {**content, "parameters": entries}

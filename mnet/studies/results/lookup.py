"""One finished run, found by id, name, folder or W&B address."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.studies.options import PARAMETERS
from mnet.studies.results.finished import RESOLVED, described_trial
from mnet.studies.results.loading import load
from mnet.studies.runs.store import CONFIG, PUBLISHED, RESULT, RUNS, read_settings, run_folder, runs_with
from mnet.training.recipes import Recipe

SHOWN = 8
"""Largest number of runs that an error lists."""


@dataclass(frozen=True)
class Run:
    """A finished run, from a folder, a table or W&B."""

    row: Mapping[str, object]
    """A row of the table that `load` returns."""
    folder: Path | None = None
    """Folder of its files, if there is one."""

    @property
    def name(self) -> str:
        return f"{self.row['study']}:{self.row['cell']}:{self.row['seed']}"

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])

    @cached_property
    def settings(self) -> dict[str, object]:
        """All settings except the folder of the images, and the Trainer arguments as `trainer.NAME`."""
        settings = {name: self.row[name] for name in PARAMETERS if not pd.isna(self.row.get(name))}  # type: ignore[call-overload]
        if self.folder is None or not (self.folder / CONFIG).is_file():
            return settings
        _, trainer = read_settings(self.folder)
        settings.pop("data_dir", None)
        return settings | {f"trainer.{name}": value for name, value in trainer.items()}

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as trained."""
        numbers = {"epochs": int, "batch_size": int, "lr": float}
        trained = {name: numbers[name](str(self.row[name])) for name in RESOLVED}
        return replace(described_trial(self.row).full_recipe(), **trained)


def find_run(name: str, root: Path) -> Run:
    """Find a run.

    Args:
        name: The folder of a run; `study:cell:seed`, where `study` is a study in `root` or the folder of a study; a
            run id or the beginning of one; or the address of a run on W&B, as for `load`.
        root: The results folder; its published tables are included.

    Raises:
        ConfigError: There is no such run (the message suggests the nearest name), or there are several.
    """
    if not name:
        raise ConfigError("expected study:cell:seed, a run id, a folder, or entity/project/id on W&B")
    on_wandb = re.match(r"wandb:|https?://", name)
    if name.count(":") >= 2 and not on_wandb:
        return _by_cell(name, root)
    if on_wandb or "/" in name or Path(name).is_dir():
        return _single(load(name, conflicting=True), name, Path(name) if (Path(name) / RESULT).is_file() else None)
    return _by_id(name, root)


def _by_cell(name: str, root: Path) -> Run:
    """
    Raises:
        ConfigError: The study, the cell or the seed is unknown, or there are several such runs.
    """
    study, _, rest = name.partition(":")
    cell, _, seed = rest.rpartition(":")
    folders = [Path(study)] if "/" in study else [root / study, root / PUBLISHED / study]
    tables = {folder: load(folder, conflicting=True) for folder in folders if "/" in study or _has_runs(folder)}
    for folder, runs in tables.items():
        matches = runs[(runs["cell"].astype(str) == cell) & (runs["seed"].astype(str) == seed)]
        if not matches.empty:
            return _single(matches, name, run_folder(folder.parent, folder.name, str(matches["run_id"].iloc[0])))
    candidates = pd.concat(tables.values()) if tables else _matching(load(root, conflicting=True), "study", study)
    return _single(_matching(_matching(candidates, "cell", cell), "seed", seed), name, None)


def _has_runs(folder: Path) -> bool:
    return (folder / RUNS).is_file() or any(runs_with(RESULT, folder))


def _matching(runs: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    matches = runs[runs[column].astype(str) == value]
    if matches.empty:
        raise unknown(column, value, runs[column].unique())
    return matches


def _by_id(name: str, root: Path) -> Run:
    """
    Raises:
        ConfigError: There is no such run (the message suggests the nearest name), or there are several.
    """
    runs = load(root, conflicting=True)
    matches = runs[runs["run_id"].str.startswith(name)]
    if matches.empty:
        cells = [Run(row).name for row in _rows(runs)]
        near = difflib.get_close_matches(name, [*runs["run_id"].unique(), *cells], n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        expected = "expected a run id or its beginning, study:cell:seed, or a folder"
        raise ConfigError(f"unknown run {name!r} among the {len(runs)} in {root}; {expected}.{hint}")
    if matches["run_id"].nunique() == 1:  # several studies may share a run; one of them has its files
        rows = [(row, run_folder(root, str(row["study"]), str(row["run_id"]))) for row in _rows(matches)]
        row, folder = next(((row, folder) for row, folder in rows if (folder / RESULT).is_file()), (rows[0][0], None))
        return Run(row, folder)
    return _single(matches, name, None)


def _single(runs: pd.DataFrame, name: str, folder: Path | None) -> Run:
    """The only run of a table.

    Raises:
        ConfigError: There are several.
    """
    if len(runs) > 1:
        names = [f"{run.run_id} ({run.name})" for run in map(Run, _rows(runs[:SHOWN]))]
        more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
        raise ConfigError(f"{name!r} matches several runs; expected the id of one: {', '.join(names)}{more}")
    return Run(next(_rows(runs)), folder if folder is not None and (folder / RESULT).is_file() else None)


def _rows(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    return ({str(name): value for name, value in row.items()} for row in table.to_dict("records"))

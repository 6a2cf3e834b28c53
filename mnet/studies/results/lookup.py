"""One finished run, by whatever name a user has for it."""

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
from mnet.studies.runs.store import CONFIG, PUBLISHED, RESULT, RUNS, read_settings
from mnet.studies.trial import USER_DATASETS
from mnet.training.recipes import Recipe

SHOWN = 8
"""Runs that an error names at most."""


@dataclass(frozen=True)
class Run:
    """A finished run, from a folder, a table or W&B."""

    row: Mapping[str, object]
    """Of `load`."""
    folder: Path | None = None
    """Where its files are, if they are here."""

    @property
    def name(self) -> str:
        return f"{self.row['study']}:{self.row['cell']}:{self.row['seed']}"

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])

    @cached_property
    def settings(self) -> dict[str, object]:
        """Every setting, and the arguments of Lightning's Trainer; of `data_dir` only where it decides what is seen."""
        told = {name: self.row[name] for name in PARAMETERS if not pd.isna(self.row.get(name))}  # type: ignore[call-overload]
        if self.folder is None or not (self.folder / CONFIG).is_file():
            return told
        written, trainer = read_settings(self.folder)
        if self.row["dataset"] in USER_DATASETS:
            told["data_dir"] = written.get("data_dir")
        return told | {f"trainer.{name}": value for name, value in trainer.items()}

    @cached_property
    def recipe(self) -> Recipe:
        """How it was trained."""
        numbers = {"epochs": int, "batch_size": int, "lr": float}
        trained = {name: numbers[name](str(self.row[name])) for name in RESOLVED}
        return replace(described_trial(self.row).full_recipe(), **trained)


def find_run(name: str, root: Path) -> Run:
    """The run that is meant.

    Args:
        name: The folder of a run; `study:cell:seed`, of this folder's studies or with the folder of a study before the
            cell; a run id or the beginning of one; or an address of a run on W&B, as for `load`.
        root: The results folder, whose published tables count too.

    Raises:
        ConfigError: No such run, with the nearest spelling; or several.
    """
    if not name:
        raise ConfigError("two runs are compared: give study:cell:seed, a run id, a folder or entity/project/id of W&B")
    on_wandb = re.match(r"wandb:|https?://", name)
    if name.count(":") >= 2 and not on_wandb:
        return by_cell(name, root)
    if on_wandb or "/" in name or Path(name).is_dir():
        return only(load(name), name, Path(name) if (Path(name) / RESULT).is_file() else None)
    return by_id(name, root)


def by_cell(name: str, root: Path) -> Run:
    """
    Raises:
        ConfigError: Unknown study, cell or seed, or several such runs.
    """
    study, _, rest = name.partition(":")
    cell, _, seed = rest.rpartition(":")
    places = [Path(study)] if "/" in study else [root / study, root / PUBLISHED / study]  # one's own come first
    tables = {folder: load(folder) for folder in places if "/" in study or has_runs(folder)}
    for folder, runs in tables.items():
        found = runs[(runs["cell"].astype(str) == cell) & (runs["seed"].astype(str) == seed)]
        if not found.empty:
            return only(found, name, folder / "runs" / str(found["run_id"].iloc[0]))
    known = pd.concat(tables.values()) if tables else matching(load(root), "study", study)
    return only(matching(matching(known, "cell", cell), "seed", seed), name, None)


def has_runs(folder: Path) -> bool:
    return (folder / RUNS).is_file() or any(folder.glob(f"runs/*/{RESULT}"))


def matching(runs: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    found = runs[runs[column].astype(str) == value]
    if found.empty:
        raise unknown(column, value, runs[column].unique())
    return found


def by_id(name: str, root: Path) -> Run:
    """
    Raises:
        ConfigError: No such run, with the nearest spelling; or several.
    """
    runs = load(root)
    found = runs[runs["run_id"].str.startswith(name)]
    if found.empty:
        cells = [Run(row).name for row in rows(runs)]
        near = difflib.get_close_matches(name, [*runs["run_id"].unique(), *cells], n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        spelled = "a run id or its beginning, study:cell:seed, or a folder"
        raise ConfigError(f"unknown run {name!r} among the {len(runs)} in {root}; give {spelled}.{hint}")
    if found["run_id"].nunique() == 1:  # a run of several studies: the one whose files are here
        here = [(row, root / str(row["study"]) / "runs" / str(row["run_id"])) for row in rows(found)]
        row, folder = next(((row, folder) for row, folder in here if (folder / RESULT).is_file()), (here[0][0], None))
        return Run(row, folder)
    return only(found, name, None)


def only(found: pd.DataFrame, name: str, folder: Path | None) -> Run:
    """The one run of a table.

    Raises:
        ConfigError: There are several.
    """
    if len(found) > 1:
        names = [f"{run.run_id} ({run.name})" for run in map(Run, rows(found[:SHOWN]))]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ConfigError(f"{name!r} is several runs; give the id of one: {', '.join(names)}{more}")
    return Run(next(rows(found)), folder if folder is not None and (folder / RESULT).is_file() else None)


def rows(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    return ({str(name): value for name, value in row.items()} for row in table.to_dict("records"))

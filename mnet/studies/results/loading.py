"""Finished runs as one data frame, from a results folder or from W&B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, leave_out, path_text, text
from mnet.studies.options import PARAMETERS
from mnet.studies.results.archive import TEXT_COLUMNS, usable_table
from mnet.studies.results.finished import FinishedRun, finished_row
from mnet.studies.results.tables import EXCLUDED_COLUMNS, TRAINER
from mnet.studies.runs.store import (
    CONFIG,
    PUBLISHED,
    RESULT,
    RUNS,
    TRAINER_FOLDER,
    known_result,
    other_training,
    read_settings,
    read_trial,
)
from mnet.studies.trial import Trial
from mnet.tasks import TASKS
from mnet.weights.transfer import RUNS_FOLDER

FILE = "file"
ALIKE = (TRAINER, "device", "threads", "torch", "revision")
"""Runs with the same id and equal values of these must have the same result."""
ROUNDED = 1e-3
"""Points by which equal results may differ: tables hold four digits."""


def load(
    source: str | Path = "results", *, every_machine: bool = False, conflicting: bool = False, plain: bool = False
) -> pd.DataFrame:
    """Every finished run in a folder or in a project on W&B, of all studies, profiles and machines.

    Args:
        source: A folder of results, of one study or of one run: its `runs/*/result.json` and every `runs.csv` below
            it, published ones included. If there is no such folder, an address on W&B: `entity/project`,
            `entity/project/sweeps/<id>` or `entity/project/runs/<id>`, also with `wandb:` in front or as a URL. Runs
            logged offline appear after `wandb sync`.
        every_machine: Whether a run that several machines trained has a row for each; else one row.
        conflicting: Whether to keep runs with several different results from the same code on the same machine; else
            they are left out, because there is no way to know which result is right.
        plain: Whether to leave out runs with other arguments of the Trainer, which are no evidence for claims.

    Returns:
        One row per study and run, with the columns of `runs.csv`: settings (a toggle of None reads `paper`), accuracy
        in percent, cost, hardware and versions; `data_dir` of runs on the user's images; `trainer` if some runs had
        other arguments of Lightning's Trainer. A run with a folder is read from the folder, not from a table. A file
        that is damaged, foreign or contradicts another is left out and logged.

    Raises:
        ConfigError: There is no such folder and W&B cannot be reached, or there is no finished run in it.
    """
    root = Path(source)
    tables = list(tables_in_folder(root)) if root.is_dir() else []
    cells = {(str(row.study), str(row.run_id)): str(row.cell) for table in tables for row in table.itertuples()}
    finished = runs_in_folder(root) if root.is_dir() else runs_on_wandb(str(source))
    rows = [{**finished_row(run, cells), TRAINER: run.trainer, FILE: run.file} for run in finished]
    frames = [frame for frame in (pd.DataFrame(rows), *map(_without_folder, tables)) if len(frame)]
    runs = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if len(runs) and not conflicting:
        runs = without_conflicts(runs)
    if len(runs) and plain:
        for row in runs[runs[TRAINER] != ""].itertuples():
            leave_out(Path(str(row.file)), f"it was trained with {row.trainer} for Lightning's Trainer: not evidence")
        runs = runs[runs[TRAINER] == ""]
    if runs.empty:
        raise ConfigError(f"no finished run in {source}; `make ablate-<study>` trains some")
    for name in PARAMETERS:  # tables written before a setting existed lack its column
        if name in TEXT_COLUMNS and name != "data_dir":
            runs[name] = runs.get(name, pd.Series(index=runs.index, dtype="str")).fillna(text(getattr(Trial, name)))
    excluded = [name for name in EXCLUDED_COLUMNS if name != "data_dir"]
    excluded += [FILE, *([] if (runs[TRAINER] != "").any() else [TRAINER])]
    keys = ["study", "run_id", TRAINER, *(["device"] if every_machine and "device" in runs else [])]
    return runs.drop_duplicates(keys, ignore_index=True).drop(columns=excluded, errors="ignore")


def tables_in_folder(root: Path) -> Iterator[pd.DataFrame]:
    """Every `runs.csv` below a folder, published ones last, with `TRAINER` and `FILE`."""
    paths = sorted(root.rglob(RUNS), key=lambda path: (PUBLISHED in path.relative_to(root).parts, path))
    for path in paths:
        if (found := usable_table(path)) is None:
            continue
        table = found[1]
        folder = next((part for part in path.absolute().parts if TRAINER_FOLDER.fullmatch(part)), "")
        table[TRAINER] = table[TRAINER].fillna("") if TRAINER in table else folder
        table[FILE] = str(path)
        yield table


def _without_folder(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of a table without a result.json next to it; the others are read from that."""
    files = zip(table[FILE], table["run_id"], strict=True)
    return table[[not (Path(file).parent / RUNS_FOLDER / run_id / RESULT).is_file() for file, run_id in files]]


def runs_in_folder(root: Path) -> Iterator[FinishedRun]:
    """The finished and tested runs below a folder. Invalid results are left out and logged."""
    for path in sorted(root.rglob(RESULT)):
        folder = path.absolute().parent
        if (result := known_result(path.parent)) is None:
            continue
        if not (path.parent / CONFIG).is_file():
            leave_out(path, f"there is no {CONFIG} next to it")
            continue
        try:
            trial, (_, trainer) = read_trial(path.parent), read_settings(path.parent)
        except ConfigError as error:
            leave_out(path, error)
            continue
        run_id = folder.name if folder.parent.name == RUNS_FOLDER else trial.run_id
        if trial.tested:
            result_and_id = {**result, "run_id": run_id}
            yield FinishedRun(folder.parents[1].name, trial, result_and_id, str(path), other_training(trainer))


def without_conflicts(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without those that have different results from the same code on the same machine."""
    headlines = [task.headline.name for task in TASKS.values() if task.headline.name in runs]
    runs = runs.assign(headline=runs[headlines].astype(float).bfill(axis=1).iloc[:, 0])
    by_run = runs.groupby([name for name in ("run_id", *ALIKE) if name in runs], dropna=False)["headline"]
    conflicts = runs[by_run.transform("max") - by_run.transform("min") > ROUNDED]
    for run_id, rows in conflicts.groupby("run_id"):
        results = zip(rows["headline"], rows[FILE], strict=True)
        values = ", ".join(f"{value:g} in {path_text(path)}" for value, path in results)
        leave_out(
            Path(rows[FILE].iloc[0]).parent, f"run {run_id} has different results, so none of them is used: {values}"
        )
    return runs.drop(index=conflicts.index, columns="headline")


def runs_on_wandb(source: str) -> list[FinishedRun]:
    from mnet.studies.results.wandb_runs import online_runs, read_address

    address = read_address(source)
    if address is None:
        raise ConfigError(
            f"no folder {source}, and it is not a W&B address like entity/project; `make ablate-<study>` writes results"
        )
    return online_runs(address)

"""Finished runs as one data frame, from a results folder or from W&B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, text
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.results.archive import TEXT_COLUMNS, read_table
from mnet.studies.results.finished import FinishedRun, finished_row
from mnet.studies.results.tables import EXCLUDED_COLUMNS
from mnet.studies.runs.store import CONFIG, RESULT, RUNS, read_result, read_settings
from mnet.studies.trial import Trial


def load(source: str | Path = "results", *, every_machine: bool = False) -> pd.DataFrame:
    """Every finished run in a folder or in a project on W&B, of all studies, profiles and machines.

    Args:
        source: A folder of results, of one study or of one run: its `runs/*/result.json` and every `runs.csv` below
            it, published ones included. If there is no such folder, an address on W&B: `entity/project`,
            `entity/project/sweeps/<id>` or `entity/project/runs/<id>`, also with `wandb:` in front or as a URL. Runs
            that were logged offline are there after `wandb sync`.
        every_machine: Whether a run that several machines trained is there once for each; else once.

    Returns:
        One row per study and run, with the columns of `runs.csv`: settings (a toggle at None reads `paper`), accuracy
        in percent, cost, hardware and versions; `data_dir` of runs on the user's images. A run with a folder is read
        from the folder, not from a table.

    Raises:
        ConfigError: There is no such folder and W&B cannot be reached, or there is no finished run in it.
    """
    root = Path(source)
    tables = [read_table(path) for path in sorted(root.rglob(RUNS))] if root.is_dir() else []
    cells = {(str(row.study), str(row.run_id)): str(row.cell) for table in tables for row in table.itertuples()}
    finished = runs_in_folder(root) if root.is_dir() else runs_on_wandb(str(source))
    rows = [finished_row(run, cells) for run in finished]
    frames = [pd.DataFrame(rows)] if rows else []
    runs = pd.concat([*frames, *tables], ignore_index=True) if frames or tables else pd.DataFrame()
    if runs.empty:
        raise ConfigError(f"no finished run in {source}; `make ablate-<study>` trains some")
    for name in PARAMETERS:  # tables written before a setting existed lack its column
        if name in TEXT_COLUMNS and name != "data_dir":
            runs[name] = runs.get(name, pd.Series(index=runs.index, dtype="str")).fillna(text(getattr(Trial, name)))
    runs = runs.drop(columns=[name for name in EXCLUDED_COLUMNS if name != "data_dir"], errors="ignore")
    keys = ["study", "run_id", *(["device"] if every_machine and "device" in runs else [])]
    return runs.drop_duplicates(keys, ignore_index=True)


def runs_in_folder(root: Path) -> Iterator[FinishedRun]:
    """The finished and tested runs below a folder."""
    for path in sorted(root.rglob(RESULT)):
        result = read_result(path.parent)
        if result is not None and (path.parent / CONFIG).is_file():
            settings, _ = read_settings(path.parent)
            run = FinishedRun(path.absolute().parents[2].name, trial_from(settings), result)
            if run.trial.tested:
                yield run


def runs_on_wandb(source: str) -> list[FinishedRun]:
    from mnet.studies.results.wandb_runs import online_runs, read_address

    address = read_address(source)
    if address is None:
        raise ConfigError(
            f"no folder {source}, and it is not a W&B address like entity/project; `make ablate-<study>` writes results"
        )
    return online_runs(address)

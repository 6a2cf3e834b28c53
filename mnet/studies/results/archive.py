"""What studies left behind, as tables: this machine's own, and where it has none, the published ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mnet.errors import ConfigError, text, unknown
from mnet.studies.options import PARAMETERS, cell_name, trial_from
from mnet.studies.results.tables import EXCLUDED_COLUMNS, run_row
from mnet.studies.runs.store import (
    CANDIDATES,
    CLAIMS,
    CONFIG,
    PUBLISHED,
    RESULT,
    RUNS,
    TRACE,
    read_result,
    read_settings,
)
from mnet.studies.trial import USER_DATASETS, Trial

OFFLINE = "offline-run-*/run-*.wandb"
RESOLVED = ("epochs", "batch_size", "lr")
"""Settings that tables and W&B have as the recipe resolved them."""

NUMBERS = ("resolution", "epochs", "batch_size", "lr", "seed")
NAMES = ("cell", "variant", "run_id", "revision", "value", "against", "baseline", "reason", "note", "file", "sha256")
TEXT = dict.fromkeys({*PARAMETERS, *NAMES} - {*NUMBERS}, "str")
"""Columns that are never numbers or truths: a cell is called `true` or `1.0`, a toggle's value `paper` or `0.5`."""


def read_table(path: Path) -> pd.DataFrame:
    """A table that mnet wrote, every cell of it in the type that it was written in.

    Raises:
        ConfigError: There is no such file, or it is none of ours.
    """
    try:
        return pd.read_csv(path, dtype=TEXT, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a table: {error}") from None


def known(value: object) -> bool:
    """Whether a cell of a table holds something."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def find_table(root: Path, study: str, name: str) -> Path | None:
    """The file of a study in a results folder, or the published one; None if neither is there."""
    for folder in (root / study, root / PUBLISHED / study):
        if (folder / name).is_file():
            return folder / name
    return None


def study_table(root: Path, study: str, name: str = RUNS) -> pd.DataFrame:
    """A table of a study: this machine's, or the published one.

    Args:
        root: The results folder.
        study: The study's name.
        name: `RUNS`, `SUMMARY`, `EFFECTS`, `LATENCY` or `FRONTIER`.

    Raises:
        ConfigError: There is neither; with the studies that have one.
    """
    path = find_table(root, study, name)
    if path is None:
        raise unknown(f"study with {name} in {root}", study, studies_with(root, name))
    return read_table(path)


def read_claims(root: Path) -> pd.DataFrame | None:
    """What `make claims` found in a results folder, or what was published; None if there is neither."""
    paths = (root / CLAIMS, root / PUBLISHED / CLAIMS)
    return next((read_table(path) for path in paths if path.is_file()), None)


def studies_with(root: Path, name: str = RUNS) -> list[str]:
    """The studies that have a table of this name, here or published."""
    found = [*root.glob(f"*/{name}"), *(root / PUBLISHED).glob(f"*/{name}")]
    return sorted({path.parent.name for path in found})


def list_searches(root: Path) -> list[str]:
    """The searches of a results folder, by name."""
    return sorted({path.parent.name for name in (TRACE, CANDIDATES) for path in root.glob(f"*/{name}")})


def load(source: str | Path = "results") -> pd.DataFrame:
    """Every finished run that a folder or a project on W&B holds, whichever study, profile or machine it is of.

    Args:
        source: A folder of results, of one study or of one run: its `runs/*/result.json`, the `offline-run-*` that W&B
            left, and every `runs.csv` below it, the published ones too. Where there is no such folder, an address on
            W&B: `entity/project`, `entity/project/sweeps/<id>`, `entity/project/runs/<id>`, with `wandb:` before it or
            as in the browser.

    Returns:
        One row a study and run, with the columns of `runs.csv`: settings (a toggle at None reads `paper`), accuracy in
        percent, cost, hardware and versions; `data_dir` of runs on folders of images. A run that has a folder is read
        from there, not from a table.

    Raises:
        ConfigError: There is no such folder and W&B cannot be asked, or there is no finished run in it.
    """
    root = Path(source)
    tables = [read_table(path) for path in sorted(root.rglob(RUNS))] if root.is_dir() else []
    cells = {(str(row.study), str(row.run_id)): str(row.cell) for table in tables for row in table.itertuples()}
    rows = [finished_row(run, cells) for run in (in_folder(root) if root.is_dir() else on_wandb(str(source)))]
    frames = [pd.DataFrame(rows)] if rows else []
    runs = pd.concat([*frames, *tables], ignore_index=True) if frames or tables else pd.DataFrame()
    if runs.empty:
        raise ConfigError(f"no finished run in {source}; `make ablate-<study>` trains some")
    for name in PARAMETERS:  # a table from before there was this setting
        if name in TEXT and name != "data_dir":
            runs[name] = runs.get(name, pd.Series(index=runs.index, dtype="str")).fillna(text(getattr(Trial, name)))
    runs = runs.drop(columns=[name for name in EXCLUDED_COLUMNS if name != "data_dir"], errors="ignore")
    return runs.drop_duplicates(["study", "run_id"], ignore_index=True)


class Finished(NamedTuple):
    """A finished run, wherever it was found."""

    study: str
    trial: Trial
    result: Mapping[str, object]
    """As in result.json. What else of `run_row` is in it counts more than what follows from the trial."""


def finished_row(run: Finished, cells: Mapping[tuple[str, str], str]) -> dict[str, object]:
    """The row of a run; its cell is called as a table calls it, or by what is not as in the paper."""
    told = {name: value for name, value in run.trial.toggles().items() if value is not None}
    row = run_row(run.study, cell_name({"model": run.trial.model, **told}), run.trial, run.result)
    images = {"data_dir": str(run.trial.data_dir)} if run.trial.dataset in USER_DATASETS else {}
    return {**row, "cell": cells.get((run.study, str(row["run_id"])), row["cell"]), **images}


def in_folder(root: Path) -> Iterator[Finished]:
    """Of the results below a folder, then what W&B wrote offline below it and has no result."""
    known = set()
    for path in sorted(root.rglob(RESULT)):
        result = read_result(path.parent)
        if result is not None and (path.parent / CONFIG).is_file():
            settings, _ = read_settings(path.parent)
            run = Finished(path.absolute().parents[2].name, trial_from(settings), result)
            if run.trial.tested:
                known.add((run.study, run.trial.run_id))
                yield run
    if files := [path for path in sorted(root.rglob(OFFLINE)) if read_result(path.parents[2]) is None]:
        from mnet.studies.results.wandb_runs import offline_runs

        yield from (run for run in offline_runs(files) if (run.study, run.result["run_id"]) not in known)


def on_wandb(source: str) -> list[Finished]:
    from mnet.studies.results.wandb_runs import online_runs, read_address

    address = read_address(source)
    if address is None:
        raise ConfigError(
            f"no folder {source}, and no address on W&B as entity/project; `make ablate-<study>` writes results"
        )
    return online_runs(address)


def described_trial(settings: Mapping[str, object]) -> Trial:
    """The trial of a row or of a run on W&B, but for the numbers that its recipe was given.

    They are written as they were trained: of int8 0 epochs, of int8-qat a tenth of the learning rate that was asked
    for. Taken for what was asked for, they would be refused or divided again.
    """
    told = {name: settings[name] for name in PARAMETERS if name in settings and name not in RESOLVED}
    return trial_from({name: value for name, value in told.items() if not pd.isna(value)})  # type: ignore[call-overload]

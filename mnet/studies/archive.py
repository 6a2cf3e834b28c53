"""What studies left behind, as tables: this machine's own, and where it has none, the published ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from mnet.errors import ConfigError, text, unknown
from mnet.studies.results import UNTOLD, run_row
from mnet.studies.store import CONFIG, RESULT, read_result
from mnet.studies.trial import PARAMETERS, Trial, cell_name, trial_from

RUNS, SUMMARY, EFFECTS = "runs.csv", "summary.csv", "effects.csv"
LATENCY, FRONTIER = "latency.csv", "frontier.csv"
PUBLISHED = "published"
"""Below the results folder: tables that came with the project."""

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


def studies_with(root: Path, name: str = RUNS) -> list[str]:
    """The studies that have a table of this name, here or published."""
    found = [*root.glob(f"*/{name}"), *(root / PUBLISHED).glob(f"*/{name}")]
    return sorted({path.parent.name for path in found})


def load(source: str | Path = "results") -> pd.DataFrame:
    """Every finished run that a folder holds, whichever study, profile or machine it is of.

    Args:
        source: A folder of results, of one study or of one run: its `runs/*/result.json` and every `runs.csv` below
            it, the published ones too.

    Returns:
        One row a study and run, with the columns of `runs.csv`: settings (a toggle at None reads `paper`), accuracy in
        percent, cost, hardware and versions. A run that has a folder is read from there, not from a table.

    Raises:
        ConfigError: There is no such folder, or no finished run in it.
    """
    root = Path(source)
    if not root.is_dir():
        raise ConfigError(f"no folder {root}; `make ablate-<study>` writes results")
    tables = [read_table(path) for path in sorted(root.rglob(RUNS))]
    cells = {(row.study, row.run_id): row.cell for table in tables for row in table.itertuples()}
    rows = []
    for path in sorted(root.rglob(RESULT)):
        folder = path.parent
        result = read_result(folder)
        if result is not None and (folder / CONFIG).is_file():
            trial = trial_from(yaml.safe_load((folder / CONFIG).read_text()))
            study = folder.parent.parent.name
            told = {name: value for name, value in trial.toggles().items() if value is not None}
            cell = cells.get((study, trial.run_id)) or cell_name({"model": trial.model, **told})
            rows.append(run_row(study, str(cell), trial, result))
    frames = [pd.DataFrame(rows)] if rows else []
    runs = pd.concat([*frames, *tables], ignore_index=True) if frames or tables else pd.DataFrame()
    if runs.empty:
        raise ConfigError(f"no finished run in {root}; `make ablate-<study>` trains some")
    for name in PARAMETERS:  # a table from before there was this setting
        if name in TEXT and name != "data_dir":
            runs[name] = runs.get(name, pd.Series(dtype="str")).fillna(text(getattr(Trial, name)))
    runs = runs.drop(columns=list(UNTOLD), errors="ignore")
    return runs.drop_duplicates(["study", "run_id"], ignore_index=True)

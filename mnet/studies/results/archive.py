"""The tables of a results folder: those of this folder, else the published ones below it."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.studies.options import PARAMETERS
from mnet.studies.runs.store import CANDIDATES, CLAIMS, PUBLISHED, RUNS, TRACE

NUMBERS = ("resolution", "epochs", "batch_size", "lr", "seed")
NAMES = ("cell", "variant", "run_id", "revision", "value", "against", "baseline", "reason", "note", "file", "sha256")
TEXT_COLUMNS = dict.fromkeys({*PARAMETERS, *NAMES} - {*NUMBERS}, "str")
"""Columns that are never read as numbers or booleans: `true` or `1.0` may be the name of a cell."""


def read_table(path: Path) -> pd.DataFrame:
    """A table written by mnet, each column in the type it was written in.

    Raises:
        ConfigError: There is no such file, or it is not a table.
    """
    try:
        return pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a table: {error}") from None


def is_known(value: object) -> bool:
    """Whether a cell of a data frame holds a value."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def find_table(root: Path, study: str, name: str) -> Path | None:
    """The file of a study in a results folder, else the published one, else None."""
    for folder in (root / study, root / PUBLISHED / study):
        if (folder / name).is_file():
            return folder / name
    return None


def study_table(root: Path, study: str, name: str = RUNS) -> pd.DataFrame:
    """A table of a study, from a results folder or from its published tables.

    Args:
        root: The results folder.
        study: The study's name.
        name: File name of the table, such as `RUNS` or `LATENCY`.

    Raises:
        ConfigError: The study has no such table; names the studies that have one.
    """
    path = find_table(root, study, name)
    if path is None:
        raise unknown(f"study with {name} in {root}", study, studies_with(root, name))
    return read_table(path)


def studies_with(root: Path, name: str = RUNS) -> list[str]:
    """The studies that have a table of this name, in the folder or published."""
    paths = [*root.glob(f"*/{name}"), *(root / PUBLISHED).glob(f"*/{name}")]
    return sorted({path.parent.name for path in paths})


def list_searches(root: Path) -> list[str]:
    """The searches of a results folder, by name."""
    return sorted({path.parent.name for name in (TRACE, CANDIDATES) for path in root.glob(f"*/{name}")})


def read_claims(root: Path) -> pd.DataFrame | None:
    """The table of claims of a results folder, else the published one, else None."""
    paths = (root / CLAIMS, root / PUBLISHED / CLAIMS)
    return next((read_table(path) for path in paths if path.is_file()), None)

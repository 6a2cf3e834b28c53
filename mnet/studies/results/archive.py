"""The tables of a results folder: its own, else the published ones below it."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, leave_out, one_line, path_text, unknown
from mnet.files import MEGABYTE, read_limited
from mnet.studies.options import PARAMETERS
from mnet.studies.results.schema import check_table
from mnet.studies.runs.store import CANDIDATES, CLAIMS, PUBLISHED, RUNS, TRACE

NUMBERS = ("resolution", "epochs", "batch_size", "lr", "seed")
NAMES = ("cell", "variant", "run_id", "revision", "value", "against", "baseline", "reason", "note", "file", "sha256")
TEXT_COLUMNS = dict.fromkeys({*PARAMETERS, *NAMES} - {*NUMBERS}, "str")
"""Columns that are never read as numbers or booleans: `true` or `1.0` may be the name of a cell."""

LARGEST = 256 * MEGABYTE
"""Largest size of a table in bytes: a million runs."""


def read_table(path: Path) -> pd.DataFrame:
    """A table written by mnet, each column in the type it was written in.

    Raises:
        ConfigError: There is no such file, it is not a table, or not one that mnet writes under this name.
    """
    try:
        content = io.BytesIO(read_limited(path, LARGEST))
        table = pd.read_csv(content, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
        check_table(path.name, table)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path_text(path)} cannot be read as a table: {one_line(error)}") from None
    return table


def usable_table(*paths: Path) -> tuple[Path, pd.DataFrame] | None:
    """The first of some files that exists and can be read, and its table. Unreadable ones are logged."""
    for path in paths:
        if not path.exists():
            continue
        try:
            return path, read_table(path)
        except ConfigError as error:
            leave_out(path, error)
    return None


def is_known(value: object) -> bool:
    """Whether a cell of a data frame holds a value."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def find_table(root: Path, study: str, name: str) -> Path | None:
    """The file of a study in a results folder, else the published one, else None."""
    return next((path for path in places(root, study, name) if path.is_file()), None)


def places(root: Path, study: str, name: str) -> tuple[Path, Path]:
    """Where a file of a study may be: in the results folder, or published."""
    return root / study / name, root / PUBLISHED / study / name


def study_table(root: Path, study: str, name: str = RUNS) -> pd.DataFrame:
    """A table of a study, from a results folder or from its published tables.

    Args:
        root: The results folder.
        study: The study's name.
        name: File name of the table, such as `RUNS` or `LATENCY`.

    Raises:
        ConfigError: The study has no such table; names the studies that have one.
    """
    found = usable_table(*places(root, study, name))
    if found is None:
        raise unknown(f"study with {name} in {root}", study, studies_with(root, name))
    return found[1]


def of_latest_machine(latency: pd.DataFrame) -> pd.DataFrame:
    """The rows of `LATENCY` that can be shown together: for each runtime, threads and batch those of the machine that
    measured last. A file keeps the rows of every machine."""
    if "device" not in latency:
        return latency
    conditions = [name for name in ("runtime", "threads", "batch") if name in latency]
    latest = latency.groupby(conditions, dropna=False)["device"].transform("last")
    return latency[(latency["device"] == latest) | latest.isna()]


def studies_with(root: Path, name: str = RUNS) -> list[str]:
    """The studies with a readable table of this name, in the folder or published."""
    paths = [*root.glob(f"*/{name}"), *(root / PUBLISHED).glob(f"*/{name}")]
    names = sorted({path.parent.name for path in paths})
    return [study for study in names if usable_table(*places(root, study, name)) is not None]


def list_searches(root: Path) -> list[str]:
    """The searches of a results folder, by name."""
    return sorted({path.parent.name for name in (TRACE, CANDIDATES) for path in root.glob(f"*/{name}")})


def read_claims(root: Path) -> pd.DataFrame | None:
    """The table of claims of a results folder, else the published one, else None."""
    found = usable_table(root / CLAIMS, root / PUBLISHED / CLAIMS)
    return None if found is None else found[1]

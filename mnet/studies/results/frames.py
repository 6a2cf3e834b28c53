"""The tables of a study as data frames of strings, for notebooks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError, unknown
from mnet.studies.results.archive import find_table, of_latest_machine, study_table
from mnet.studies.results.table_view import format_interval, format_number, is_number
from mnet.studies.results.views import effects_table, summary_table
from mnet.studies.runs.store import EFFECTS, LATENCY, PUBLISHED, RUNS, SUMMARY


def reading(root: Path, *studies: str, name: str = RUNS) -> pd.DataFrame:
    """Where the tables of studies come from, measured in the results folder or published, and the settings they cover.

    Args:
        root: The results folder.
        studies: Names of studies.
        name: Name of the table: `RUNS`, `LATENCY` or `INSIDE`.

    Raises:
        ConfigError: A study has no such table.
    """
    return pd.DataFrame([describe_source(root, study, name) for study in studies]).set_index("study")


def describe_source(root: Path, study: str, name: str) -> dict[str, object]:
    table = study_table(root, study, name)
    path = find_table(root, study, name)
    published = path is not None and path.is_relative_to(root / PUBLISHED)
    row: dict[str, object] = {"study": study, "numbers": "published" if published else "own", "rows": len(table)}
    for column in ("model", "dataset", "resolution", "epochs", "seed", "runtime", "threads", "device", "torch"):
        if column in table:
            row[column] = list_values(table[column])
    return row


def list_values(column: pd.Series) -> str:
    """The distinct values of a column, in order; consecutive integers as a range."""
    values = list(dict.fromkeys(column.dropna()))
    integers = len(values) > 2 and pd.api.types.is_integer_dtype(column)
    if integers and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def summary_of(root: Path, study: str) -> pd.DataFrame:
    """`summary_table` of a study, by cell.

    Raises:
        ConfigError: There is no such study.
    """
    table = summary_table(study_table(root, study, SUMMARY))
    return table.select(*(title for title in table.columns if title not in ("sd", "p"))).frame("cell")


def effects_of(root: Path, study: str, value: str, against: str) -> pd.DataFrame:
    """`effects_table` of a study for one pair of values, such as `int8` against `fp32`, by variant.

    Raises:
        ConfigError: There is no such study, or no such pair of values.
    """
    effects = study_table(root, study, EFFECTS)
    rows = effects[(effects["value"] == value) & (effects["against"] == against)]
    if rows.empty:
        pairs = effects[["value", "against"]].drop_duplicates().itertuples(index=False)
        raise unknown("pair of values", f"{value} - {against}", [f"{first} - {second}" for first, second in pairs])
    titles = ("variant", "n", "difference", "95% interval", "verdict", "beyond the first", "its 95% interval")
    return effects_table(rows).select(*titles).frame("variant")


def latency_of(root: Path, study: str, *, precision: str | None = None) -> pd.DataFrame:
    """The latency of a study's networks relative to the first one's, one column per runtime.

    Args:
        root: The results folder.
        study: A study that has `LATENCY`.
        precision: Only networks in this precision, each relative to itself in fp32.

    Returns:
        By variant: `ratio [95% interval]` for each runtime, or why there is none.

    Raises:
        ConfigError: There is no such study, or none of its networks was timed in this precision.
    """
    table = of_latest_machine(study_table(root, study, LATENCY))
    names = ("ratio", "low", "high")
    if precision is not None:
        table, names = table[table["precision"] == precision], ("to_fp32", "to_fp32_low", "to_fp32_high")
        table = table[table["to_fp32"].notna()]
        if table.empty:
            raise ConfigError(f"no network of {study} was timed in {precision} as well as in fp32")
    ratios = [format_ratio(*(row[name] for name in names)) or str(row["stopped"]) for _, row in table.iterrows()]
    table = table.assign(variant=table["variant"].astype(str), text=ratios)
    order = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["runtime"]))
    wide = table.pivot_table(index="variant", columns="runtime", values="text", aggfunc="first")
    return wide.reindex(index=order[0], columns=order[1]).fillna("").rename_axis(columns=None)


def format_ratio(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval; without one if it is exact, empty if it is missing."""
    if not is_number(ratio):
        return ""
    return format_number(ratio, 3) if low == high else f"{format_number(ratio, 3)} {format_interval(low, high, 3)}"

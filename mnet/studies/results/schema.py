"""The columns that readers of mnet's tables rely on, with their types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from mnet.errors import ConfigError, shown
from mnet.studies.runs.result import TYPES, most_of
from mnet.studies.runs.store import (
    BLOCKS,
    CANDIDATES,
    CLAIMS,
    DEATHS,
    EFFECTS,
    FRONTIER,
    INSIDE,
    LATENCY,
    LATENCY_CLAIMS,
    METRICS,
    RUNS,
    SUMMARY,
    TRACE,
    check_name,
)


class Schema(NamedTuple):
    """Columns that every version of a table has."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...]


SCHEMAS: Mapping[str, Schema] = {
    RUNS: Schema(("study", "run_id", "cell", "model", "dataset"), ("seed", "resolution", "epochs", "batch_size", "lr")),
    SUMMARY: Schema(("study", "cell", "verdict"), ("n", "params", "madds", "delta", "low", "high")),
    EFFECTS: Schema(("study", "variant", "value", "against", "verdict"), ("n", "delta", "low", "high")),
    LATENCY: Schema(("variant", "runtime", "stopped"), ("median_ms", "ratio", "low", "high")),
    LATENCY_CLAIMS: Schema(("id", "runtime", "verdict", "why"), ("ours", "low", "high", "n", "threads")),
    FRONTIER: Schema(("cell", "runtime"), ("median_ms", "ratio", "ratio_low", "ratio_high")),
    CLAIMS: Schema(
        ("id", "paper", "statement", "verdict", "why", "kind", "metric", "study", "source", "on", "command"),
        ("paper_value", "ours", "low", "high", "n"),
    ),
    TRACE: Schema(("space", "run_id"), ("step", "cost", "accuracy")),
    CANDIDATES: Schema(("run_id",), ("generation", "cost", "accuracy", "reward")),
    INSIDE: Schema(("cell", "layer"), ("seed", "channels", "silent", "rank_before", "rank_after")),
    DEATHS: Schema(("cell", "layer"), ("seed", "step", "dead")),
    METRICS: Schema((), ("epoch", "step")),
}
"""Name of a file -> its schema."""
OF_BLOCKS = Schema(("block", "kind", "variant"), ("resolution", "params", "madds", "ms", "low", "high"))
"""Schema of `blocks_file`."""


def check_table(name: str, table: pd.DataFrame) -> None:
    """
    Raises:
        ConfigError: A table of this name lacks a column, or has a value of another type or out of range.
    """
    schema = OF_BLOCKS if name.startswith(BLOCKS) else SCHEMAS.get(name)
    if schema is None:
        return
    for column in (*schema.texts, *schema.numbers):
        if column not in table:
            raise ConfigError(f"it has no column {column}, so mnet did not write it")
    for column in schema.numbers:
        check_numbers(column, table[column])
    if name == RUNS:
        for column in ("study", "run_id"):
            for value in table[column].unique():
                check_name(column, value)
        for column in TYPES.keys() & set(table):
            if TYPES[column] is not str:
                check_numbers(column, table[column], 0, most_of(column))


def check_numbers(name: str, values: pd.Series, least: float = float("-inf"), most: float = float("inf")) -> None:
    """
    Raises:
        ConfigError: A value is not a number from `least` to `most`. Empty cells are allowed.
    """
    known = values.dropna()
    numbers = pd.to_numeric(known, errors="coerce")
    wrong = known[~numbers.between(least, most)] if known.dtype != bool else known
    if len(wrong):
        allowed = f" from {least:g} to {most:g}" if most < float("inf") else ""
        raise ConfigError(f"{name} must be a number{allowed}, not {shown(wrong.tolist()[0])}")

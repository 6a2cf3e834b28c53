"""Accuracy beside latency: a study's trained cells, and what each takes at the same settings."""

from __future__ import annotations

import pandas as pd

from mnet.errors import ConfigError
from mnet.tasks import metric_of

COLUMNS = (
    *("delta", "low", "high", "verdict"),
    *("median_ms", "ratio", "ratio_low", "ratio_high", "rounds", "stopped", "best", "params", "madds"),
    *("resolution", "dataset", "precision", "threads", "batch", "device", "kernels", "version", "torch", "revision"),
)


def frontier_table(summary: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and runtime that has both: accuracy in percent, latency as a ratio to the baseline.

    Args:
        summary: From `results.summary_table`.
        latency: From `latency.latency_table`, of the same cells.

    Returns:
        Study, cell, runtime, n, mean and half width of what the task compares, `COLUMNS`; `low` and `high` are of the
        difference in points, `ratio_low` and `ratio_high` of the ratio. `best`: no other cell on that runtime is both
        faster and more accurate.

    Raises:
        ConfigError: No cell has both.
    """
    renamed = latency.rename(columns={"variant": "cell", "low": "ratio_low", "high": "ratio_high"})
    measured = renamed[renamed["median_ms"].notna()].drop(columns=["study", "params", "madds"], errors="ignore")
    table = summary[summary["n"] > 0].merge(measured, on="cell")
    if table.empty:
        raise ConfigError("no cell has both an accuracy and a latency; train first: make ablate-<study>")
    table["best"] = [not dominated(row, table) for _, row in table.iterrows()]
    metric = metric_of(summary)
    return table.reindex(columns=["study", "cell", "runtime", "n", metric.mean, metric.half_width, *COLUMNS])


def dominated(row: pd.Series, table: pd.DataFrame) -> bool:
    """Whether another cell is at least as good in both and better in one; equal networks do not beat each other."""
    others, mean = table[table["runtime"] == row["runtime"]], metric_of(table).mean
    faster, as_fast = others["median_ms"] < row["median_ms"], others["median_ms"] <= row["median_ms"]
    surer, as_good = others[mean] > row[mean], others[mean] >= row[mean]
    return bool(((faster & as_good) | (as_fast & surer)).any())

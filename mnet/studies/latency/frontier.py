"""Accuracy and latency together: a study's trained cells, and their latency with the same settings."""

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
    """One row per cell and runtime that have both: accuracy in percent, latency as a ratio to the baseline.

    Args:
        summary: From `results.summary_table`.
        latency: From `latency.latency_table`, of the same cells.

    Returns:
        Study, cell, runtime, n, mean and half width of the headline metric, `COLUMNS`. `low` and `high` are for the
        difference in points, `ratio_low` and `ratio_high` for the ratio. `best`: no other cell on that runtime is at
        least as good in both and better in one.

    Raises:
        ConfigError: No cell has both.
    """
    renamed = latency.rename(columns={"variant": "cell", "low": "ratio_low", "high": "ratio_high"})
    measured = renamed[renamed["median_ms"].notna()].drop(columns=["study", "params", "madds"], errors="ignore")
    table = summary[summary["n"] > 0].merge(measured, on="cell")
    if table.empty:
        raise ConfigError("no cell has both an accuracy and a latency; train first: make ablate-<study>")
    table["best"] = [not _dominated(row, table) for _, row in table.iterrows()]
    metric = metric_of(summary)
    return table.reindex(columns=["study", "cell", "runtime", "n", metric.mean, metric.half_width, *COLUMNS])


def _dominated(row: pd.Series, table: pd.DataFrame) -> bool:
    """Whether another cell on the same runtime is at least as good in both and better in one."""
    rivals, mean = table[table["runtime"] == row["runtime"]], metric_of(table).mean
    faster, as_fast = rivals["median_ms"] < row["median_ms"], rivals["median_ms"] <= row["median_ms"]
    better, as_good = rivals[mean] > row[mean], rivals[mean] >= row[mean]
    return bool(((faster & as_good) | (as_fast & better)).any())

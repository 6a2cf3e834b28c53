"""Differences paired by seed, each with an interval from its own pairs only."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mnet.errors import ConfigError, unknown

LEVEL = 0.95
ALPHA = 0.05
"""1 - LEVEL."""

MARGIN = 0.5
"""Default for the smallest difference of interest, in points."""

ROUNDING = 1e-12
"""Tolerance relative to the values. Differences that vary less count as equal: their t would be rounding noise."""


def paired_deltas(runs: pd.DataFrame, baseline: str, metric: str = "top1") -> pd.DataFrame:
    """Each cell minus the baseline, paired by seed, with a 95% t interval.

    Args:
        runs: One row per run, with columns `cell`, `seed` and `metric`.
        baseline: The name of a cell.
        metric: A numeric column of `runs`.

    Returns:
        One row per cell other than the baseline, in order of appearance: `cell, n, delta, low, high, p, p_holm`, in
        the unit of the metric. n counts the seeds with a finite value for both cells; others are left out. Interval
        and p need two pairs, else they are nan. p comes from the paired t test; p_holm is adjusted by Holm's method
        over the cells that have a p. If all pairs have the same difference, the interval is that point, and p is 1 if
        it is zero (the same network twice), else 0.

    Raises:
        ConfigError: A column or the baseline is missing, the metric holds something other than numbers, or a cell
            has two runs of one seed.
    """
    by_seed = table_by_seed(runs, baseline, metric)
    base = by_seed[baseline].to_numpy(float, na_value=math.nan)
    rows = []
    for name in by_seed:
        if name == baseline:
            continue
        values = by_seed[name].to_numpy(float, na_value=math.nan)
        both = np.isfinite(values) & np.isfinite(base)
        pairs = values[both] - base[both]
        # Accuracies near 90 have rounding errors of 1e-14, which a difference of 0.1 does not reveal.
        rounding = ROUNDING * np.abs([values[both], base[both]]).max(initial=0)
        low, high, p = t_test(pairs, rounding=rounding)
        delta = float(pairs.mean()) if len(pairs) else math.nan
        rows.append({"cell": name, "n": len(pairs), "delta": delta, "low": low, "high": high, "p": p})
    table = pd.DataFrame(rows, columns=["cell", "n", "delta", "low", "high", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table


def table_by_seed(runs: pd.DataFrame, baseline: str, metric: str) -> pd.DataFrame:
    """A metric of runs: one row per seed, one column per cell in order of appearance; nan for a missing run.

    Args:
        runs: One row per run, with columns `cell`, `seed` and `metric`.
        baseline: The name of a cell.
        metric: A numeric column of `runs`; values that are not finite count as missing.

    Raises:
        ConfigError: A column or the baseline is missing, the metric holds something other than numbers, or a cell has
            two runs of one seed.
    """
    for column in ("cell", "seed", metric):
        if column not in runs.columns:
            raise unknown("column", column, runs.columns)
    if baseline not in set(runs["cell"]):
        raise unknown("baseline", baseline, runs["cell"].unique())
    if runs.duplicated(["cell", "seed"]).any():
        twice = runs[runs.duplicated(["cell", "seed"])].iloc[0]
        raise ConfigError(f"cell {twice['cell']!r} has two runs of seed {twice['seed']}")
    try:
        numbers = pd.to_numeric(runs[metric])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"column {metric!r} holds something other than numbers: {error}") from error
    table = runs[["cell", "seed"]].assign(value=numbers).pivot(index="seed", columns="cell", values="value")
    cells = list(dict.fromkeys(runs["cell"]))
    return table[cells].astype(float).replace([math.inf, -math.inf], math.nan).sort_index()


def t_test(values: np.ndarray, level: float = LEVEL, rounding: float = 0.0) -> tuple[float, float, float]:
    """The t interval of the mean of `values` (n,), and the two-sided p for a mean of zero.

    Args:
        values: Finite differences.
        level: Level of the interval, between 0 and 1.
        rounding: Values no further apart than this are equal; a mean no further from zero is zero.

    Returns:
        low, high and p; nan for fewer than two values. If all are equal, the mean twice, with p = 1 at zero, else 0.
    """
    if len(values) < 2:
        return math.nan, math.nan, math.nan
    if np.ptp(values) <= rounding:
        mean = float(values.mean())
        return mean, mean, 1.0 if abs(mean) <= rounding else 0.0
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(level)
    return float(low), float(high), float(test.pvalue)


def half_width(values: np.ndarray, level: float = LEVEL) -> float:
    """Half the width of the t interval of the mean of `values` (n,); nan for fewer than two."""
    low, high, _ = t_test(values, level, rounding=ROUNDING * np.abs(values).max(initial=0))
    return (high - low) / 2


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p values (m,), ignoring nan."""
    adjusted = np.full(len(p), math.nan)
    valid = ~np.isnan(p)
    if valid.any():
        adjusted[valid] = multipletests(p[valid], method="holm")[1]
    return adjusted


def at_most(low: float, high: float) -> float:
    """The smallest m for which the interval shows that the difference is at most m; nan without an interval."""
    return float(np.maximum(abs(low), abs(high)))  # keeps nan, unlike max()

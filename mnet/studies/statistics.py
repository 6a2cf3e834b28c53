"""What a difference is worth: deltas paired by seed, with intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from mnet.errors import ConfigError, unknown

LEVEL = 0.95


def half_width(values: np.ndarray, level: float = LEVEL) -> float:
    """Half the t interval of the mean of `values` (n,); nan below two values."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def paired_deltas(runs: pd.DataFrame, baseline: str, metric: str = "top1") -> pd.DataFrame:
    """Each cell minus the baseline, paired by seed, with a 95% t interval.

    Args:
        runs: One row a run, with columns `cell`, `seed` and `metric`.
        baseline: The name of a cell.
        metric: A column of `runs`.

    Returns:
        One row a cell other than the baseline, in order of appearance: `cell, n, delta, low, high, p, p_holm`. n
        counts the seeds that both have; a seed that one lacks is left out. The interval needs two pairs, else
        nan. p is of the paired t test, p_holm is Holm's over the cells.

    Raises:
        ConfigError: A column or the baseline is missing, or a cell has two runs of one seed.
    """
    for column in ("cell", "seed", metric):
        if column not in runs.columns:
            raise unknown("column", column, runs.columns)
    if baseline not in set(runs["cell"]):
        raise unknown("baseline", baseline, runs["cell"].unique())
    if runs.duplicated(["cell", "seed"]).any():
        twice = runs[runs.duplicated(["cell", "seed"])].iloc[0]
        raise ConfigError(f"cell {twice['cell']!r} has two runs of seed {twice['seed']}")
    by_seed = runs.pivot(index="seed", columns="cell", values=metric)
    rows = []
    for cell in runs["cell"].unique():
        if cell == baseline:
            continue
        pairs = (by_seed[cell] - by_seed[baseline]).dropna().to_numpy(float)
        delta = float(pairs.mean()) if len(pairs) else math.nan
        half = half_width(pairs)
        rows.append(
            {
                "cell": cell,
                "n": len(pairs),
                "delta": delta,
                "low": delta - half,
                "high": delta + half,
                "p": p_value(pairs),
            }
        )
    table = pd.DataFrame(rows, columns=["cell", "n", "delta", "low", "high", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table


def p_value(pairs: np.ndarray) -> float:
    """Two-sided p of the paired t test; nan below two pairs, 1 where nothing differs (the same network twice)."""
    if len(pairs) < 2:
        return math.nan
    if np.ptp(pairs) == 0:
        return 1.0 if pairs[0] == 0 else 0.0
    return float(stats.ttest_1samp(pairs, 0.0).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p values (m,); nan stays nan and is not counted."""
    adjusted = np.full(len(p), math.nan)
    known = np.flatnonzero(~np.isnan(p))
    ordered = known[np.argsort(p[known])]
    steps = p[ordered] * np.arange(len(ordered), 0, -1)
    adjusted[ordered] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted

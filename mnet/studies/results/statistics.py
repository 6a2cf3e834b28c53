"""What a difference is worth: deltas paired by seed, their intervals, and what may be said of them."""

from __future__ import annotations

import bisect
import math
import sys
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mnet.errors import ConfigError, unknown

LEVEL = 0.95
ALPHA = 0.05
"""Below this p_holm a difference counts as one: the other side of LEVEL."""

ROUNDING = 1e-12
"""Relative to the values: differences that differ by less are equal, and their t statistic would be noise."""

Verdict = Literal["up", "down", "flat", "inconclusive"]


def paired_deltas(runs: pd.DataFrame, baseline: str, metric: str = "top1") -> pd.DataFrame:
    """Each cell minus the baseline, paired by seed, with a 95% t interval.

    Args:
        runs: One row a run, with columns `cell`, `seed` and `metric`.
        baseline: The name of a cell.
        metric: A column of `runs`, of numbers.

    Returns:
        One row a cell other than the baseline, in order of appearance: `cell, n, delta, low, high, p, p_holm`, in
        the metric's unit. n counts the seeds that both have; a seed that one lacks, or whose value is nan or
        infinite, is left out. Interval and p need two pairs, else nan. p is of the paired t test, p_holm is Holm's
        over the cells that have one. Where all pairs differ alike the interval is that point, and p is 1 at zero
        (the same network twice), else 0.

    Raises:
        ConfigError: A column or the baseline is missing, the metric holds something other than numbers, or a cell
            has two runs of one seed.
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
    by_seed = runs[["cell", "seed"]].assign(value=numbers).pivot(index="seed", columns="cell", values="value")
    base = by_seed[baseline].to_numpy(float, na_value=math.nan)
    rows = []
    for name in runs["cell"].unique():
        if name == baseline:
            continue
        own = by_seed[name].to_numpy(float, na_value=math.nan)
        both = np.isfinite(own) & np.isfinite(base)
        pairs = own[both] - base[both]
        # Two accuracies near 90 round at 1e-14, their difference of 0.1 does not know that.
        rounding = ROUNDING * np.abs([own[both], base[both]]).max(initial=0)
        low, high, p = t_test(pairs, rounding=rounding)
        delta = float(pairs.mean()) if len(pairs) else math.nan
        rows.append({"cell": name, "n": len(pairs), "delta": delta, "low": low, "high": high, "p": p})
    table = pd.DataFrame(rows, columns=["cell", "n", "delta", "low", "high", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table


def t_test(values: np.ndarray, level: float = LEVEL, rounding: float = 0.0) -> tuple[float, float, float]:
    """The t interval of the mean of `values` (n,), and the two-sided p of a mean of zero.

    Args:
        values: Differences, finite.
        level: Of the interval, between 0 and 1.
        rounding: Values that lie no further apart are equal; a mean no further from zero is zero.

    Returns:
        low, high and p; nan below two values. The mean twice where all are equal, with p = 1 at zero, else 0.
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
    """Half the t interval of the mean of `values` (n,); nan below two values."""
    low, high, _ = t_test(values, level, rounding=ROUNDING * np.abs(values).max(initial=0))
    return (high - low) / 2


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of p values (m,); nan stays nan and is not counted."""
    adjusted = np.full(len(p), math.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def at_most(low: float, high: float) -> float:
    """The smallest m for which the interval says "no difference of more than m points"; nan without an interval."""
    return float(np.maximum(abs(low), abs(high)))  # unlike max(), keeps a nan


def equivalent(low: float, high: float, margin: float) -> bool:
    """Whether the whole interval lies strictly within -margin and +margin; never without an interval.

    Two one-sided tests at 5% ask the same of the 90% interval. The 95% interval of the tables is stricter: two cells
    that differ by `margin` or more are called equivalent in at most 2.5% of studies, each cell taken alone.

    Raises:
        ConfigError: The margin is not above zero.
    """
    if not margin > 0:
        raise ConfigError(f"margin {margin}: an equivalence margin is above 0")
    return -margin < low and high < margin


def verdict(low: float, high: float, p_holm: float, margin: float | None = None) -> Verdict:
    """What a row of `paired_deltas` says, in a word.

    `flat` comes first: the interval lies within the margin, which says that smaller differences are of no interest,
    so a difference that is surely there but surely too small is flat. Then `up` and `down`: p_holm is below 0.05,
    and the interval lies above or below zero. All else is `inconclusive`: without a margin nothing is flat, and an
    interval that contains zero is not "no difference".

    Raises:
        ConfigError: The margin is not above zero.
    """
    if margin is not None and equivalent(low, high, margin):
        return "flat"
    if p_holm < ALPHA and low > 0:
        return "up"
    if p_holm < ALPHA and high < 0:
        return "down"
    return "inconclusive"


def seeds_needed(sd: float, half_width: float, level: float = LEVEL) -> int:
    """The fewest seeds (2 or more) for which the t interval of a mean difference is +- `half_width` or narrower.

    Args:
        sd: Standard deviation of the paired differences, in points. Taken as true: estimated from few seeds it may
            be far off (from three, by a factor of 0.5 to 6), so count again when more have run.
        half_width: Half the wanted interval, in points.
        level: Of the interval.

    Raises:
        ConfigError: `sd` is not a finite number of 0 or more, `half_width` not above 0, `level` not between 0 and 1.
    """
    if not 0 <= sd < math.inf:
        raise ConfigError(f"sd {sd}: a finite number of 0 or more is wanted (two pairs give one)")
    if not half_width > 0:
        raise ConfigError(f"half width {half_width}: a number above 0 is wanted")
    if not 0 < level < 1:
        raise ConfigError(f"level {level}: a number between 0 and 1 is wanted, such as {LEVEL}")

    def narrow_enough(n: int) -> bool:
        return bool(stats.t.ppf((1 + level) / 2, n - 1) * sd / math.sqrt(n) <= half_width)

    counts = range(2, sys.maxsize)
    return counts[bisect.bisect_left(counts, True, key=narrow_enough)]  # both factors fall with n

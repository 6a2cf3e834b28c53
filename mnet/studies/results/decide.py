"""The analysis behind every table: which cells of a study differ, with one 5% error rate over all cells and looks.

`estimates` holds the model of one look, `looks` divides the 5% among the looks. docs/statistics.md explains both and
lists measured error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mnet.errors import ConfigError
from mnet.studies.results.estimates import Family, estimate
from mnet.studies.results.looks import check_margin, classify, follow, seeds_needed, thresholds
from mnet.studies.results.statistics import MARGIN, table_by_seed

FEWEST_FOR_EQUAL = 2
"""Fewest seeds for cells with identical values to count as one network. In one seed, two networks may tie by chance."""

COLUMNS = ("cell", "n", "delta", "low", "high", "p", "verdict", "look")
JUDGED = ("delta", "se", "low", "high", "p", "verdict", "look", "seeds_needed")


def decide(
    runs: pd.DataFrame,
    baseline: str,
    metric: str = "top1",
    margin: float | None = MARGIN,
    looks: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Each cell minus the baseline, with a verdict and an interval that holds jointly over all cells and looks.

    Args:
        runs: One row per run, with columns `cell`, `seed` and `metric`. Cells may lack seeds.
        baseline: The name of a cell.
        metric: A numeric column of `runs`.
        margin: Smallest difference of interest; None = all are of interest.
        looks: Numbers of seeds after which the study is analysed, ascending; None = only now, with all seeds. A look at
            n seeds takes the runs of the first n, in ascending order. Seeds beyond the last look add one more look.

    Returns:
        One row per cell other than the baseline, in order of appearance: `cell, n, delta, low, high, p, verdict,
        look`, in the unit of the metric. `n` counts the runs of the cell. `low` and `high` bound the intersection of
        the 95% intervals of all looks so far; `p` is adjusted for cells and looks. `verdict` is `flat` (the interval
        lies within the margin), `up`, `down` (it lies above or below zero) or `undecided`. `look` is the number of
        seeds at the deciding look, or at the last one. The interval is nan if no cell has two runs. Cells with
        identical values in two or more seeds count as one network: their difference is exactly zero.

    Raises:
        ConfigError: A column or the baseline is missing, the metric holds something other than numbers, a cell has two
            runs of one seed, the margin is not above zero, or the looks do not ascend from 2 on.
    """
    values = table_by_seed(runs, baseline, metric)
    cells = [str(name) for name in values if name != baseline]
    table = judge(values, differences(values, [(name, baseline) for name in cells]), margin=margin, looks=looks)
    counts = [int(values[name].notna().sum()) for name in cells]
    return table.assign(cell=cells, n=counts)[list(COLUMNS)]


def differences(values: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """The contrasts (m, cells) for m pairs of columns: the first minus the second."""
    names = {name: i for i, name in enumerate(values)}
    contrasts = np.zeros((len(pairs), len(names)))
    for row, (cell, against) in zip(contrasts, pairs, strict=True):
        row[names[cell]] += 1
        row[names[against]] -= 1
    return contrasts


def judge(
    values: pd.DataFrame,
    contrasts: np.ndarray,
    *,
    margin: float | None,
    looks: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    equality: bool = False,
) -> pd.DataFrame:
    """The analysis behind `decide`, for any family of comparisons.

    Args:
        values: One row per seed, ascending; one column per cell; nan for a missing run.
        contrasts: (m, cells), the weights of the cells in each comparison; each row sums to zero.
        margin: As for `decide`.
        looks: As for `decide`.
        groups: A number for each cell: only cells of the same group share seed effects. None = all do.
        equality: Whether `seeds_needed` is for intervals inside or outside the margin, not for those beside zero.

    Returns:
        One row per comparison, with the columns `JUDGED`: as for `decide`; the standard error `se`; and `seeds_needed`,
        the number of seeds that would decide an undecided comparison if its difference and spread stay the same.
        Before the first look every comparison is undecided.

    Raises:
        ConfigError: The margin is not above zero, or the looks do not ascend from 2 on.
    """
    check_margin(margin)
    planned = _check_looks(looks)
    group = np.zeros(values.shape[1], int) if groups is None else np.array(groups)
    array, contrasts, group = _merge_equal_cells(values.to_numpy(float, na_value=math.nan), contrasts, group)
    seeds = len(array)
    if not planned or seeds > planned[-1]:
        planned = (*planned, max(seeds, 2))
    reached = [look for look in planned if look <= seeds] or [seeds]
    compared = np.flatnonzero((contrasts != 0).any(axis=1))
    equal = {"delta": 0.0, "se": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "verdict": classify(0.0, 0.0, margin)}
    rows = pd.DataFrame([{**equal, "look": reached[-1], "seeds_needed": math.nan}] * len(contrasts), columns=JUDGED)
    if len(compared):
        family = Family(tuple(group.tolist()), tuple(map(tuple, contrasts[compared].tolist())))
        limits = thresholds(family, planned)
        estimates = [estimate(array[None, :look], family) for look in reached]
        judged = {name: part[0] for name, part in follow(estimates, reached, limits, margin)._asdict().items()}
        if seeds < planned[0]:
            judged["verdict"][:] = "undecided"
        delta, se, df = (part[0] for part in estimates[-1])
        needed = [
            seeds_needed(*one, reached[-1], planned, limits, margin, equality=equality)
            if equality or verdict == "undecided"
            else math.nan
            for one, verdict in zip(zip(delta, se, df, strict=True), judged["verdict"], strict=True)
        ]
        for name, column in {**judged, "delta": delta, "se": se, "seeds_needed": needed}.items():
            rows.loc[compared, name] = column
    return rows


def _check_looks(looks: Sequence[int] | None) -> tuple[int, ...]:
    if looks is None:
        return ()
    if not looks or list(looks) != sorted(set(looks)) or min(looks) < 2:
        raise ConfigError(f"looks must be ascending numbers of seeds from 2 on, such as 3, 5, 8, not {list(looks)}")
    return tuple(map(int, looks))


def _merge_equal_cells(
    array: np.ndarray, contrasts: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge cells with identical values into one, and add up their weights in the comparisons."""
    first: dict[bytes, int] = {}
    kept = [
        first.setdefault(column.tobytes(), i) if np.isfinite(column).sum() >= FEWEST_FOR_EQUAL else i
        for i, column in enumerate(np.ascontiguousarray(array.T))
    ]
    merged = np.zeros_like(contrasts)
    for i, target in enumerate(kept):
        merged[:, target] += contrasts[:, i]
    different = sorted(set(kept))
    return array[:, different], merged[:, different], group[different]

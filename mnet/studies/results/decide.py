"""The analysis behind every table: which cells of a study differ, with one 5% error rate over all cells and looks.

A look is an analysis after a given number of seeds. A value is modelled as the effect of its cell, plus the effect of
its seed if seeds matter, plus noise with the same spread in all cells. The 5% are divided among the looks, and the
widths of intervals come from a simulation, run once per `Family` and looks. docs/statistics.md explains the model and
lists measured error rates. `scipy.special` gives the quantiles of `scipy.stats` without its argument checks, which
took as long as the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnet.errors import ConfigError
from mnet.studies.results.statistics import ALPHA, ROUNDING, table_by_seed

Verdict = Literal["up", "down", "flat", "undecided"]

SPENT = 0.041
"""The part of `ALPHA` used if all spreads are equal and no run is missing. The rest covers the other cases."""
OTHER_SPREAD, SPREAD_ALPHA = 1.5, 0.1
"""A cell is judged by its own standard deviation if that is more than this many times that of the others, and an F test
has a p below this."""
FEWEST_FOR_SPREAD = 3
"""Fewest seeds of a cell for which its own spread is tested."""
FEWEST_FOR_EQUAL = 2
"""Fewest seeds for cells with identical values to count as one network. In one seed, two networks may tie by chance."""
SEEDS_DO_NOTHING = 0.05
"""If the F test of seed effects has a p above this, the model omits them. That costs nothing if they are zero, and only
widens intervals if they are not."""
SHARES = ((0, 10, 20, 32), (0.0, 1.0, 1.0, 0.2))
"""Seeds at a look, and its relative share of the error: largest from 10 to 20, where most comparisons are decided."""
SIMULATED, CHUNK = 20_000, 2_000
"""Number of simulated studies without any effect, which set the width of intervals, and how many run at once."""
MOST_SEEDS = 10_000
"""Upper limit of the search for `seeds_needed`."""

COLUMNS = ("cell", "n", "delta", "low", "high", "p", "verdict", "look")
JUDGED = ("delta", "se", "low", "high", "p", "verdict", "look", "seeds_needed")

Values = np.ndarray
"""(B, seeds, cells): the metric in B studies that lack the same runs; nan for a missing run."""


def decide(
    runs: pd.DataFrame,
    baseline: str,
    metric: str = "top1",
    margin: float | None = 0.5,
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
) -> pd.DataFrame:
    """The analysis behind `decide`, for any family of comparisons.

    Args:
        values: One row per seed, ascending; one column per cell; nan for a missing run.
        contrasts: (m, cells), the weights of the cells in each comparison; each row sums to zero.
        margin: As for `decide`.
        looks: As for `decide`.
        groups: A number for each cell: only cells of the same group share seed effects. None = all do.

    Returns:
        One row per comparison, with the columns `JUDGED`: as for `decide`; the standard error `se`; and `seeds_needed`,
        the number of seeds that would decide an undecided comparison if its difference and spread stay the same.

    Raises:
        ConfigError: The margin is not above zero, or the looks do not ascend from 2 on.
    """
    _check_margin(margin)
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
        delta, se, df = (part[0] for part in estimates[-1])
        needed = [
            _seeds_needed(*one, reached[-1], planned, limits, margin) if verdict == "undecided" else math.nan
            for one, verdict in zip(zip(delta, se, df, strict=True), judged["verdict"], strict=True)
        ]
        for name, column in {**judged, "delta": delta, "se": se, "seeds_needed": needed}.items():
            rows.loc[compared, name] = column
    return rows


def classify(low: float, high: float, margin: float | None = None) -> Verdict:
    """The verdict that a simultaneous interval supports.

    `flat` comes first: a difference within the margin is of no interest, however sure it is. An interval that contains
    zero does not show that there is no difference.

    Raises:
        ConfigError: The margin is not above zero.
    """
    _check_margin(margin)
    verdict: Verdict = _classify(np.float64(low), np.float64(high), margin).item()
    return verdict


def _classify(low: np.ndarray | np.float64, high: np.ndarray | np.float64, margin: float | None) -> np.ndarray:
    within = np.zeros(np.shape(low), bool) if margin is None else (-margin < low) & (high < margin)
    return np.select([within, low > 0, high < 0], ["flat", "up", "down"], "undecided")


def _check_margin(margin: float | None) -> None:
    if margin is not None and not margin > 0:
        raise ConfigError(f"margin must be above 0, not {margin}")


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


# ---- several looks ---------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """Comparisons that share one error rate."""

    groups: tuple[int, ...]
    """The group of each cell."""
    contrasts: tuple[tuple[float, ...], ...]
    """The weights of the cells, for each comparison."""


class Thresholds(NamedTuple):
    nominal: np.ndarray
    """(looks,): the largest p of the t test that is significant at each look."""
    null: np.ndarray
    """(SIMULATED,), ascending: for each study without effects, its lowest ratio of p to `nominal` over all looks."""


@cache
def thresholds(family: Family, looks: tuple[int, ...]) -> Thresholds:
    """The p that a t test must reach at each look, so that a share `SPENT` of studies without any effect reaches it."""
    random = np.random.default_rng(0)
    lowest = np.empty((len(looks), SIMULATED))
    for start in range(0, SIMULATED, CHUNK):
        values = random.standard_normal((CHUNK, looks[-1], len(family.groups)))
        for row, estimates in zip(lowest, _estimate_complete(values, looks, family), strict=True):
            row[start : start + CHUNK] = _t_test(estimates).min(axis=1)
    shares = np.interp(looks, *SHARES)
    nominal, silent = np.empty(len(looks)), np.ones(SIMULATED, bool)
    for i, share in enumerate(shares / shares.sum()):
        nominal[i] = np.sort(lowest[i, silent])[max(round(share * SPENT * SIMULATED), 1) - 1]
        silent &= lowest[i] > nominal[i]
    return Thresholds(nominal, np.sort((lowest / nominal[:, None]).min(axis=0)))


class Judged(NamedTuple):
    """The comparisons of B studies after the looks reached so far: arrays (B, m)."""

    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    verdict: np.ndarray
    look: np.ndarray
    """The look that decided, or the last one."""


def follow(estimates: Sequence[Estimates], looks: Sequence[int], limits: Thresholds, margin: float | None) -> Judged:
    """Combine the looks: each comparison gets the intersection of its intervals so far."""
    shape = estimates[0].delta.shape
    low, high, lowest = np.full(shape, -math.inf), np.full(shape, math.inf), np.full(shape, math.inf)
    verdict, decided = np.full(shape, "undecided"), np.full(shape, looks[0])
    for one, look, nominal in zip(estimates, looks, limits.nominal, strict=False):
        reach = -special.stdtrit(one.df, nominal / 2) * one.se
        low, high = np.maximum(low, one.delta - reach), np.minimum(high, one.delta + reach)
        outside = ~((low <= one.delta) & (one.delta <= high))  # rare; then only this look counts
        low, high = np.where(outside, one.delta - reach, low), np.where(outside, one.delta + reach, high)
        lowest = np.minimum(lowest, _t_test(one) / nominal)
        now = _classify(low, high, margin)
        decided = np.where((now == verdict) & (now != "undecided"), decided, look)
        verdict = now
    p = np.searchsorted(limits.null, lowest, side="right").clip(1) / SIMULATED * ALPHA / SPENT
    return Judged(low, high, np.where(np.isnan(low), math.nan, p.clip(max=1.0)), verdict, decided)


def _seeds_needed(
    delta: float,
    se: float,
    df: float,
    look: int,
    planned: Sequence[int],
    limits: Thresholds,
    margin: float | None,
) -> float:
    """Seeds that decide a comparison if its difference and spread stay the same; nan if that is out of reach."""
    aim = max(abs(delta), 0.0 if margin is None else margin - abs(delta))
    if not se > 0 or aim <= 0:
        return math.nan
    counts = np.arange(look + 1, MOST_SEEDS)
    at = np.searchsorted(planned, counts).clip(max=len(planned) - 1)
    reach = -special.stdtrit(df * counts / look, limits.nominal[at] / 2) * se * np.sqrt(look / counts)
    enough = np.flatnonzero(reach < aim)
    return float(counts[enough[0]]) if len(enough) else math.nan


def _t_test(estimates: Estimates) -> np.ndarray:
    """The two-sided p (B, m) of each comparison, unadjusted; 1 if it cannot be tested."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(estimates.delta) / estimates.se
    t = np.where(estimates.delta == 0, 0.0, t)
    return np.nan_to_num(2 * special.stdtr(estimates.df, -t), nan=1.0)


# ---- one look --------------------------------------------------------------------------------------------------------


class Estimates(NamedTuple):
    """The comparisons of B studies: arrays (B, m); nan if a comparison is impossible or there is no replication."""

    delta: np.ndarray
    se: np.ndarray
    df: np.ndarray


class Model(NamedTuple):
    """A linear model of N values of k cells, as matrices that apply to all studies with the same runs missing."""

    weights: np.ndarray
    """(m, N): weights of the values in each comparison; nan if the model cannot estimate it."""
    squared_weights: np.ndarray
    """(m, k): sums of squared weights over each cell's values."""
    residuals: np.ndarray
    """(N, N): maps values to residuals."""
    df: int
    variances: np.ndarray
    """(k, k): maps the cells' sums of squared residuals to their variances."""


class Fit(NamedTuple):
    """A model fitted to the values of B studies."""

    delta: np.ndarray
    """(B, m): the comparisons."""
    squares: np.ndarray
    """(B, k): the sums of squared residuals of the cells."""


def estimate(values: Values, family: Family) -> Estimates:
    """Estimate the comparisons at one look."""
    observed = np.isfinite(values[0])
    by_cell = np.eye(len(family.groups))[np.nonzero(observed)[1]]  # (N, k)
    y = values[:, observed]
    rounding = ROUNDING * np.abs(y).max(initial=0)
    y = y - y.mean(axis=1, keepdims=True)  # accuracies near 90 lose digits in squares
    fits = []
    for model in _models(observed.tobytes(), observed.shape, family):
        rest = y @ model.residuals
        squares = np.where(np.abs(rest) > rounding, rest, 0.0) ** 2 @ by_cell
        fits.append(Fit(y @ model.weights.T, squares))
    return _estimates(values, family, fits, rounding)


def _estimate_complete(values: Values, looks: Sequence[int], family: Family) -> Iterator[Estimates]:
    """Like `estimate` at each look, for values without gaps: their residuals are differences from means."""
    group, seeds = np.array(family.groups), np.array(looks)
    of_seeds = values.copy()  # minus the means of their seeds, which do not depend on the look
    for each in np.unique(group):
        of_seeds[..., group == each] -= values[..., group == each].mean(axis=2, keepdims=True)
    starts = [0, *looks[:-1]]
    sums, *others = (
        np.add.reduceat(each, starts, axis=1).cumsum(axis=1) for each in (values, values**2, of_seeds, of_seeds**2)
    )
    delta = sums / seeds[:, None] @ np.array(family.contrasts).T
    without = others[0] - sums**2 / seeds[:, None]
    within = others[2] - others[1] ** 2 / seeds[:, None]
    for i, look in enumerate(looks):
        yield _estimates(values[:, :look], family, [Fit(delta[:, i], left[:, i]) for left in (without, within)], 0.0)


def _estimates(values: Values, family: Family, fits: Sequence[Fit], rounding: float) -> Estimates:
    """The estimates of B studies, each from the model with seed effects if these matter, else from the one without."""
    observed = np.isfinite(values[0])
    models = _models(observed.tobytes(), observed.shape, family)
    blocked = _seeds_matter([fit.squares.sum(axis=1) for fit in fits], [model.df for model in models], rounding)
    estimates = Estimates(*(np.full((len(values), len(family.contrasts)), math.nan) for _ in Estimates._fields))
    for model, fit, chosen in zip(models, fits, (~blocked, blocked), strict=True):
        if chosen.any():
            delta, squares = fit.delta[chosen], fit.squares[chosen]
            estimates.delta[chosen] = np.where(np.abs(delta) > rounding, delta, 0.0)
        if chosen.any() and model.df:
            variance, df = _spreads(values[chosen], squares, model, family, with_seeds=model is models[1])
            estimates.se[chosen], estimates.df[chosen] = _standard_errors(model.squared_weights, variance, df)
    return estimates


def _seeds_matter(squares: Sequence[np.ndarray], df: Sequence[int], rounding: float) -> np.ndarray:
    """Whether seed effects stay in the model, by their F test: (B,) bool."""
    (without, within), (df_without, df_within) = squares, df
    if not 0 < df_within < df_without:
        return np.zeros(len(without), bool)
    explained, left = (without - within) / (df_without - df_within), within / df_within
    with np.errstate(divide="ignore", invalid="ignore"):
        significant = explained / left > special.fdtri(df_without - df_within, df_within, 1 - SEEDS_DO_NOTHING)
    return np.asarray(significant & (explained > rounding**2))


def _spreads(
    values: Values, squares: np.ndarray, model: Model, family: Family, *, with_seeds: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The variance used for each cell, pooled or its own, and its degrees of freedom, negative if pooled: (B, k) each.

    Args:
        values: The values of B studies.
        squares: (B, k), sums of squared residuals.
        model: The model behind the residuals.
        family: The groups of the cells.
        with_seeds: Whether the model has seed effects.
    """
    observed = np.isfinite(values[0])
    counts = observed.sum(axis=0)
    own_df = np.maximum(counts - 1, 0)
    variance = (squares @ model.variances).clip(0)
    others_df = own_df.sum() - own_df
    others = ((variance * own_df).sum(axis=1, keepdims=True) - variance * own_df) / np.maximum(others_df, 1)
    most = np.maximum(OTHER_SPREAD**2, np.nan_to_num(special.fdtri(own_df, others_df, 1 - SPREAD_ALPHA)))
    odd = (variance > most * others) & (counts >= FEWEST_FOR_SPREAD) & (others_df > 0)
    pooled, df = squares.sum(axis=1), np.full(len(squares), float(model.df))
    some = odd.any(axis=1)
    if some.any():
        if with_seeds:
            pooled[some], df[some] = _two_way(values[some], ~odd[some] & (counts > 0), np.array(family.groups))
        else:
            pooled[some], df[some] = (squares[some] * ~odd[some]).sum(axis=1), (own_df * ~odd[some]).sum(axis=1)
    alone = odd | (df == 0)[:, None]
    pooled = pooled / np.maximum(df, 1)
    return np.where(alone, variance, pooled[:, None]), np.where(alone, np.maximum(own_df, 1), -df[:, None])


def _two_way(values: Values, kept: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared residuals of the `kept` cells (B, k) after cell and seed effects, and degrees of freedom: (B,) each.

    Subtracts the means of seeds and of cells in turn until nothing changes; if no run is missing, once is enough.
    """
    used = np.isfinite(values) & kept[:, None]
    rest = np.where(used, values, 0.0)
    per_cell = np.maximum(used.sum(axis=1, keepdims=True), 1)
    for _ in range(200):
        before = rest
        for each in np.unique(group):
            of_group = used & (group == each)
            mean = (rest * of_group).sum(axis=2, keepdims=True) / np.maximum(of_group.sum(axis=2, keepdims=True), 1)
            rest = rest - mean * of_group
        rest = rest - rest.sum(axis=1, keepdims=True) / per_cell * used
        if np.abs(rest - before).max(initial=0) <= 1e-9 * np.abs(rest).max(initial=0):
            break
    patterns, which = np.unique(kept, axis=0, return_inverse=True)
    observed = np.isfinite(values[0])
    df = np.array([_two_way_df((observed & pattern).tobytes(), observed.shape, tuple(group)) for pattern in patterns])
    return (rest**2).sum(axis=(1, 2)), df[which.ravel()].astype(float)


@lru_cache(maxsize=4096)
def _two_way_df(used: bytes, shape: tuple[int, int], group: tuple[int, ...]) -> int:
    """The number of values minus the number of cell and seed effects that they determine."""
    seed, cell = np.nonzero(np.frombuffer(used, bool).reshape(shape))
    if not len(cell):
        return 0
    block = np.array(group)[cell] * shape[0] + seed
    rows, columns = (np.unique(one, return_inverse=True)[1] for one in (block, cell))
    nodes = rows.max() + columns.max() + 2
    graph = coo_array((np.ones(len(rows)), (rows, rows.max() + 1 + columns)), shape=(nodes, nodes))
    return len(cell) - nodes + int(connected_components(graph, directed=False)[0])


def _standard_errors(weights: np.ndarray, variance: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors (B, m) of the comparisons, and their degrees of freedom by Welch and Satterthwaite.

    Args:
        weights: (m, k), sums of squared weights of each cell's values.
        variance: (B, k), the variance of each cell.
        df: (B, k), negative if the variance is the pooled one.
    """
    parts = weights * variance[:, None]  # (B, m, k)
    shared = (df < 0)[:, None]
    pooled_df = np.abs(df).max(axis=1, where=df < 0, initial=1)[:, None]
    total = parts.sum(axis=2)
    pooled = (parts * shared).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        welch = total**2 / (pooled**2 / pooled_df + (parts**2 / np.abs(df)[:, None] * ~shared).sum(axis=2))
    return np.sqrt(total), np.where(total > 0, welch, pooled_df)


@lru_cache(maxsize=512)
def _models(observed: bytes, shape: tuple[int, int], family: Family) -> tuple[Model, Model]:
    """The model with cell effects only, and the one with cell and seed effects, for a pattern of observed runs."""
    seed, cell = np.nonzero(np.frombuffer(observed, bool).reshape(shape))
    block = np.array(family.groups)[cell] * shape[0] + seed
    cells = np.eye(shape[1])[cell]
    blocks = (block[:, None] == np.unique(block)).astype(float)
    both = np.hstack([cells, blocks])
    return _model(cells, cells, family.contrasts), _model(both, cells, family.contrasts)


def _model(design: np.ndarray, cells: np.ndarray, contrasts: Sequence[Sequence[float]]) -> Model:
    """
    Args:
        design: (N, parameters); the first k columns are the cells'.
        cells: (N, k), the first columns of the design.
        contrasts: (m, k).
    """
    inverse = np.linalg.pinv(design)
    residuals = np.eye(len(design)) - design @ inverse
    wanted = np.zeros((len(contrasts), design.shape[1]))
    wanted[:, : cells.shape[1]] = contrasts
    possible = np.isclose(wanted @ inverse @ design, wanted, atol=1e-8).all(axis=1)
    weights = np.where(possible[:, None], wanted @ inverse, math.nan)
    # E(squares of cell i) = sum over cells j of variance j x the squared entries of `residuals` that link i and j.
    expected = cells.T @ residuals**2 @ cells
    return Model(
        weights, weights**2 @ cells, residuals, round(np.trace(residuals)), np.linalg.pinv(expected, rcond=1e-8)
    )

"""The comparisons at one look: their differences, standard errors and degrees of freedom.

A value is modelled as the effect of its cell, plus the effect of its seed if seeds matter, plus noise with the same
spread in all cells. A cell with a much larger spread than the others keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mnet.studies.results.statistics import ROUNDING

OTHER_SPREAD, SPREAD_ALPHA = 1.5, 0.1
"""A cell is judged by its own standard deviation if that is more than this many times that of the others, and an F test
has a p below this."""
FEWEST_FOR_SPREAD = 3
"""Fewest seeds of a cell for which its own spread is tested."""
SEEDS_DO_NOTHING = 0.05
"""If the F test of seed effects has a p above this, the model omits them. That costs nothing if they are zero, and only
widens intervals if they are not."""

Values = np.ndarray
"""(B, seeds, cells): the metric in B studies that lack the same runs; nan for a missing run."""


class Family(NamedTuple):
    """Comparisons that share one error rate."""

    groups: tuple[int, ...]
    """The group of each cell."""
    contrasts: tuple[tuple[float, ...], ...]
    """The weights of the cells, for each comparison."""


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


def estimate_complete(values: Values, looks: Sequence[int], family: Family) -> Iterator[Estimates]:
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

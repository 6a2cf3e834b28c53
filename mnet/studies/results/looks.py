"""Several looks at one study: how far each interval reaches, and the verdicts that follow.

A look is an analysis after a given number of seeds. The 5% are divided among the looks, and the widths of intervals
come from a simulation, run once per `Family` and looks. `scipy.special` gives the quantiles of `scipy.stats` without
its argument checks, which took as long as the simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from mnet.errors import ConfigError
from mnet.studies.results.estimates import Estimates, Family, estimate_complete
from mnet.studies.results.statistics import ALPHA

Verdict = Literal["up", "down", "flat", "undecided"]

SPENT = 0.041
"""The part of `ALPHA` used if all spreads are equal and no run is missing. The rest covers the other cases."""
SHARES = ((0, 10, 20, 32), (0.0, 1.0, 1.0, 0.2))
"""Seeds at a look, and its relative share of the error: largest from 10 to 20, where most comparisons are decided."""
SIMULATED, CHUNK = 20_000, 2_000
"""Number of simulated studies without any effect, which set the width of intervals, and how many run at once."""
MOST_SEEDS = 10_000
"""Upper limit of the search for `seeds_needed`."""


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
        for row, estimates in zip(lowest, estimate_complete(values, looks, family), strict=True):
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


def seeds_needed(
    delta: float,
    se: float,
    df: float,
    look: int,
    planned: Sequence[int],
    limits: Thresholds,
    margin: float | None,
    *,
    equality: bool = False,
) -> float:
    """Seeds that decide a comparison if its difference and spread stay the same; nan if that is out of reach.

    An interval decides inside the margin or beside zero; with `equality`, inside the margin or outside it.
    """
    inside = 0.0 if margin is None else margin - abs(delta)
    aim = abs(inside) if equality else max(abs(delta), inside)
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


def classify(low: float, high: float, margin: float | None = None) -> Verdict:
    """The verdict that a simultaneous interval supports.

    `flat` comes first: a difference within the margin is of no interest, however sure it is. An interval that contains
    zero does not show that there is no difference.

    Raises:
        ConfigError: The margin is not above zero.
    """
    check_margin(margin)
    verdict: Verdict = _classify(np.float64(low), np.float64(high), margin).item()
    return verdict


def _classify(low: np.ndarray | np.float64, high: np.ndarray | np.float64, margin: float | None) -> np.ndarray:
    within = np.zeros(np.shape(low), bool) if margin is None else (-margin < low) & (high < margin)
    return np.select([within, low > 0, high < 0], ["flat", "up", "down"], "undecided")


def check_margin(margin: float | None) -> None:
    if margin is not None and not margin > 0:
        raise ConfigError(f"margin must be above 0, not {margin}")

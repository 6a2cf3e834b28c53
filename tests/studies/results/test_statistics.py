"""Deltas paired by seed: against scipy and statsmodels, on simulated truth, and on incomplete tables."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mnet import ConfigError
from mnet.studies import paired_deltas
from mnet.studies.results.statistics import at_most, half_width, holm

COLUMNS = ["cell", "n", "delta", "low", "high", "p", "p_holm"]


@pytest.fixture(autouse=True)
def no_warning_escapes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(**cells: dict[int, float]) -> pd.DataFrame:
    rows = [
        {"cell": cell, "seed": seed, "top1": value} for cell, values in cells.items() for seed, value in values.items()
    ]
    return pd.DataFrame(rows)


def wide(values: np.ndarray) -> pd.DataFrame:
    """Table of runs from values (cells, seeds); cell 0 is the baseline."""
    cells, seeds = values.shape
    return pd.DataFrame(
        {
            "cell": np.repeat([str(cell) for cell in range(cells)], seeds),
            "seed": np.tile(np.arange(seeds), cells),
            "top1": values.ravel(),
        }
    )


def test_interval_and_p_are_those_of_the_paired_t_test():
    generator = np.random.default_rng(0)
    base, other = generator.normal(90, 1, 6), generator.normal(91, 1, 6)
    row = paired_deltas(table(a=dict(enumerate(base)), b=dict(enumerate(other))), "a").iloc[0]
    oracle = stats.ttest_rel(other, base)
    low, high = oracle.confidence_interval(0.95)
    assert list(row.index) == COLUMNS
    assert (row["cell"], row["n"]) == ("b", 6)
    assert row["delta"] == pytest.approx((other - base).mean())
    assert (row["low"], row["high"], row["p"]) == pytest.approx((low, high, oracle.pvalue))
    assert half_width(other - base) == pytest.approx((high - low) / 2)


def test_a_seed_that_a_cell_lacks_is_not_counted():
    runs = table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={1: 3.0, 0: 1.5, 7: 100.0}, c={2: 9.5}, d={8: 5.0})
    rows = paired_deltas(runs.sample(frac=1, random_state=0), "a").set_index("cell")
    assert (rows.loc["b", "n"], rows.loc["b", "delta"]) == (2, pytest.approx(0.75))
    assert (rows.loc["c", "n"], rows.loc["c", "delta"]) == (1, pytest.approx(0.5))
    assert rows.loc["c", ["low", "high", "p", "p_holm"]].isna().all()
    assert rows.loc["d", "n"] == 0
    assert rows.loc["d", ["delta", "low", "high", "p", "p_holm"]].isna().all()
    assert rows.loc["b", "p_holm"] == rows.loc["b", "p"]  # cells without a test are not counted


@pytest.mark.parametrize("value", [math.nan, None, math.inf])
def test_a_value_that_is_no_number_is_left_out_like_a_missing_seed(value):
    whole = table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={0: 1.5, 1: 3.0})
    holed = table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={0: 1.5, 1: 3.0, 2: value})
    pd.testing.assert_frame_equal(paired_deltas(holed, "a"), paired_deltas(whole, "a"))
    holed["top1"] = holed["top1"].astype(object)
    pd.testing.assert_frame_equal(paired_deltas(holed, "a"), paired_deltas(whole, "a"))


def test_cells_keep_their_order_and_a_lone_baseline_has_no_rows():
    runs = table(z={0: 1.0}, a={0: 1.0}, m={0: 1.0})
    assert list(paired_deltas(runs, "a")["cell"]) == ["z", "m"]
    alone = paired_deltas(table(a={0: 1.0, 1: 2.0}), "a")
    assert (list(alone.columns), len(alone)) == (COLUMNS, 0)


def test_the_same_network_twice_has_no_difference():
    row = paired_deltas(table(a={0: 1.0, 1: 2.0}, b={0: 1.0, 1: 2.0}), "a").iloc[0]
    assert (row["delta"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_rounding_is_no_difference_and_a_constant_one_is_a_point():
    """0.1 + 0.2 is not 0.3, and 88.9 - 88.8 is not 90.1 - 90: a t statistic of either would be noise."""
    runs = table(a={0: 0.3, 1: 88.8, 2: 90}, same={0: 0.1 + 0.2, 1: 88.8, 2: 90}, up={0: 0.4, 1: 88.9, 2: 90.1})
    rows = paired_deltas(runs, "a").set_index("cell")
    assert rows.loc["same", "p"] == 1
    assert rows.loc["up", ["low", "high"]].tolist() == pytest.approx([0.1, 0.1])
    assert rows.loc["up", "low"] == rows.loc["up", "delta"] == rows.loc["up", "high"]
    assert rows.loc["up", "p"] == 0


def test_bad_tables_are_refused_by_name():
    runs = table(paper={0: 1.0}, relu={0: 2.0})
    with pytest.raises(ConfigError, match="Did you mean paper"):
        paired_deltas(runs, "papr")
    with pytest.raises(ConfigError, match="Did you mean top1"):
        paired_deltas(runs, "paper", metric="top")
    with pytest.raises(ConfigError, match="two runs of seed 0"):
        paired_deltas(pd.concat([runs, runs]), "paper")
    with pytest.raises(ConfigError, match="'top1' holds something other than numbers"):
        paired_deltas(runs.assign(top1="high"), "paper")


def test_holm_steps_down():
    """Holm 1979: the smallest p times m, the next times m - 1, never falling."""
    assert holm(np.array([0.01, 0.04, 0.03, np.nan])) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()
    assert holm(np.array([])).shape == (0,)


def test_p_holm_is_holm_over_the_cells_of_the_table():
    rows = paired_deltas(wide(np.random.default_rng(1).normal(0, 1, (7, 4)) + np.arange(7)[:, None] / 2), "0")
    assert rows["p_holm"].to_numpy() == pytest.approx(multipletests(rows["p"], method="holm")[1])
    assert (rows["p_holm"] > rows["p"]).any()


@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.full("it lies between 3 and 10")), 10])
def test_nominal_95_percent_intervals_cover_the_truth(seeds):
    """Seeds shift all cells alike: pairing has to remove that, and the interval has to reflect how few seeds there are.

    2,500 studies at once: since the baseline adds no noise, the cells' differences are independent. Three Monte-Carlo
    errors are 1.3 points.
    """
    generator = np.random.default_rng(seeds)
    effect = 0.7
    shared = generator.normal(90, 5, (1, seeds))
    rows = paired_deltas(wide(np.vstack([shared, shared + effect + generator.normal(0, 0.3, (2500, seeds))])), "0")
    covered = (rows["low"] <= effect) & (effect <= rows["high"])
    assert 0.93 <= covered.mean() <= 0.97


def test_a_difference_is_at_most_the_further_end_of_its_interval():
    assert math.isnan(at_most(math.nan, 1.0))
    assert math.isnan(at_most(1.0, math.nan))
    assert at_most(-0.7, 0.2) == 0.7

"""Deltas, intervals and verdicts: against scipy and statsmodels, on simulated truth, and on incomplete tables."""

import gc
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from mnet import ConfigError
from mnet.studies import paired_deltas
from mnet.studies.results.statistics import at_most, half_width, holm, is_equivalent, seeds_needed, verdict

COLUMNS = ["cell", "n", "delta", "low", "high", "p", "p_holm"]


@pytest.fixture
def quick_holm(monkeypatch):
    """statsmodels' multipletests collects garbage at each call: 0.1 s, too much for thousands of studies."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


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
    """Runs of values (cells, seeds); cell 0 is the baseline."""
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


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_nominal_95_percent_intervals_cover_the_truth(seeds):
    """Seeds shift all cells alike: pairing has to remove that, and the interval has to know how few seeds there are.

    2,500 studies at once: a baseline without noise of its own leaves the cells' differences independent. Three
    Monte-Carlo errors are 1.3 points.
    """
    generator = np.random.default_rng(seeds)
    effect = 0.7
    shared = generator.normal(90, 5, (1, seeds))
    rows = paired_deltas(wide(np.vstack([shared, shared + effect + generator.normal(0, 0.3, (2500, seeds))])), "0")
    covered = (rows["low"] <= effect) & (effect <= rows["high"])
    assert 0.93 <= covered.mean() <= 0.97


def words(values: np.ndarray, margin: float | None = None) -> list[str]:
    rows = paired_deltas(wide(values), "0")
    return [verdict(row.low, row.high, row.p_holm, margin) for row in rows.itertuples()]


@pytest.mark.parametrize("seeds", [3, 10])
def test_a_study_without_effects_is_called_up_or_down_in_at_most_5_percent(seeds, quick_holm):
    """Six cells share a baseline. 200 studies; three Monte-Carlo errors are 4.6 points, without Holm it is 24%."""
    generator = np.random.default_rng(seeds)
    trials = 200
    false = 0
    for _ in range(trials):
        noise = generator.normal(0, 0.5, (7, seeds)) + generator.normal(90, 2, (1, seeds))
        false += not {"up", "down"}.isdisjoint(words(noise))
    assert 0 < false / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_effects_that_are_there_are_found_with_their_sign(quick_holm):
    generator = np.random.default_rng(0)
    effects = np.array([0, 2.0, -2.0, 0.0])
    result = [words(generator.normal(0, 0.2, (4, 5)) + effects[:, None], margin=0.8) for _ in range(50)]
    assert np.mean([word[:2] == ["up", "down"] for word in result]) > 0.9
    assert np.mean([word[2] == "flat" for word in result]) > 0.9


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "margin", "word"),
    [
        (0.1, 0.9, 0.01, None, "up"),
        (-0.9, -0.1, 0.01, None, "down"),
        (0.1, 0.9, 0.06, None, "inconclusive"),  # Holm takes back what the interval alone would say
        (0.1, 0.9, 0.05, None, "inconclusive"),
        (-0.1, 0.1, 1.0, None, "inconclusive"),  # no margin, nothing flat
        (-0.1, 0.1, 1.0, 0.5, "flat"),
        (0.1, 0.4, 0.01, 0.5, "flat"),  # surely there, surely too small
        (0.1, 0.5, 0.01, 0.5, "up"),  # the margin itself is outside
        (-0.5, 0.1, 1.0, 0.5, "inconclusive"),
        (0.0, 0.0, 1.0, 0.5, "flat"),  # the same network twice
        (math.nan, math.nan, math.nan, 0.5, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_interval_holm_and_margin(low, high, p_holm, margin, word):
    assert verdict(low, high, p_holm, margin) == word
    mirrored = {"up": "down", "down": "up"}.get(word, word)
    assert verdict(-high, -low, p_holm, margin) == mirrored


@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(1e-3, 9))
def test_equivalent_means_a_margin_above_at_most(one, other, margin):
    low, high = sorted([one, other])
    assert is_equivalent(low, high, margin) == (margin > at_most(low, high))


def test_no_interval_is_equivalent_to_nothing_and_margins_are_above_zero():
    assert math.isnan(at_most(math.nan, 1.0))
    assert math.isnan(at_most(1.0, math.nan))
    assert at_most(-0.7, 0.2) == 0.7
    assert not is_equivalent(math.nan, math.nan, 100.0)
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="margin"):
            verdict(0.1, 0.9, 0.01, margin)


def test_a_difference_of_the_margin_is_called_equivalent_in_at_most_2_5_percent():
    generator = np.random.default_rng(0)
    shared = generator.normal(90, 5, (1, 5))
    rows = paired_deltas(wide(np.vstack([shared, shared + 1.0 + generator.normal(0, 0.2, (2000, 5))])), "0")
    called = np.mean([is_equivalent(row.low, row.high, 1.0) for row in rows.itertuples()])
    assert 0.015 < called < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 2000)


def test_seeds_needed_are_the_fewest_whose_t_interval_is_as_narrow():
    """By a t table: t(6) = 2.447 < sqrt(7), t(5) = 2.571 > sqrt(6); t(17) = 2.110 < sqrt(18) / 2, t(16) = 2.120."""
    assert seeds_needed(1.0, 1.0) == 7
    assert seeds_needed(1.0, 0.5) == 18
    assert seeds_needed(0.0, 0.1) == seeds_needed(0.1, 9.0) == 2
    assert seeds_needed(1.0, 1.0, level=0.99) > 7
    assert seeds_needed(1e3, 1e-3) == pytest.approx((1e6 * stats.norm.ppf(0.975)) ** 2)


@given(st.floats(0.05, 3), st.floats(0.1, 3))
def test_seeds_needed_agrees_with_statsmodels_and_falls_with_the_width(sd, width):
    def interval(n: int) -> float:
        values = np.resize([1.0, -1.0], n) if n % 2 == 0 else np.append(np.resize([1.0, -1.0], n - 1), 0.0)
        low, high = DescrStatsW(values * sd / values.std(ddof=1)).tconfint_mean(0.05)
        return (high - low) / 2

    n = seeds_needed(sd, width)
    assert interval(n) <= width * (1 + 1e-9)
    assert n == 2 or interval(n - 1) > width * (1 - 1e-9)
    assert seeds_needed(sd, 1.5 * width) <= n <= seeds_needed(1.5 * sd, width)


@pytest.mark.parametrize(
    "wrong", [(-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.nan), (1, 1, 95)]
)
def test_seeds_needed_refuses_impossible_spreads_widths_and_levels(wrong):
    with pytest.raises(ConfigError, match="must be"):
        seeds_needed(*wrong)

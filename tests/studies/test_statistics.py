"""Paired deltas: against scipy, on simulated truth, and on incomplete tables."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mnet import ConfigError
from mnet.studies import paired_deltas
from mnet.studies.statistics import holm


def table(**cells: dict[int, float]) -> pd.DataFrame:
    rows = [
        {"cell": cell, "seed": seed, "top1": value} for cell, values in cells.items() for seed, value in values.items()
    ]
    return pd.DataFrame(rows)


def test_interval_and_p_are_those_of_the_paired_t_test():
    generator = np.random.default_rng(0)
    base, other = generator.normal(90, 1, 6), generator.normal(91, 1, 6)
    row = paired_deltas(table(a=dict(enumerate(base)), b=dict(enumerate(other))), "a").iloc[0]
    oracle = stats.ttest_rel(other, base)
    low, high = oracle.confidence_interval(0.95)
    assert (row["cell"], row["n"]) == ("b", 6)
    assert row["delta"] == pytest.approx((other - base).mean())
    assert (row["low"], row["high"], row["p"]) == pytest.approx((low, high, oracle.pvalue))


def test_a_seed_that_a_cell_lacks_is_left_out_and_n_says_so():
    runs = table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={1: 3.0, 0: 1.5, 7: 100.0}, c={2: 9.5})
    rows = paired_deltas(runs, "a").set_index("cell")
    assert rows.loc["b", "n"] == 2
    assert rows.loc["b", "delta"] == pytest.approx(0.75)
    assert rows.loc["c", "n"] == 1
    assert rows.loc["c", "delta"] == pytest.approx(0.5)
    assert np.isnan(rows.loc["c", "low"])


def test_the_same_network_twice_has_no_difference():
    row = paired_deltas(table(a={0: 1.0, 1: 2.0}, b={0: 1.0, 1: 2.0}), "a").iloc[0]
    assert (row["delta"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_holm_steps_down():
    """Holm 1979: the smallest p times m, the next times m - 1, never falling."""
    assert holm(np.array([0.01, 0.04, 0.03, np.nan])) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)


@pytest.mark.parametrize("seeds", [3, 5])
def test_nominal_95_percent_intervals_cover_the_truth(seeds):
    """Seeds shift all cells alike: pairing has to remove that, and the interval has to know how few seeds there are."""
    generator = np.random.default_rng(seeds)
    trials, effect, covered = 2000, 0.7, 0
    for _ in range(trials):
        shared = generator.normal(0, 5, seeds)
        runs = pd.DataFrame(
            {
                "cell": ["a"] * seeds + ["b"] * seeds,
                "seed": [*range(seeds)] * 2,
                "top1": np.concatenate([shared, shared + effect + generator.normal(0, 0.3, seeds)]),
            }
        )
        row = paired_deltas(runs, "a").iloc[0]
        covered += row["low"] <= effect <= row["high"]
    assert 0.93 <= covered / trials <= 0.97


def test_bad_tables_are_refused_by_name():
    runs = table(paper={0: 1.0}, relu={0: 2.0})
    with pytest.raises(ConfigError, match="Did you mean paper"):
        paired_deltas(runs, "papr")
    with pytest.raises(ConfigError, match="Did you mean top1"):
        paired_deltas(runs, "paper", metric="top")
    with pytest.raises(ConfigError, match="two runs of seed 0"):
        paired_deltas(pd.concat([runs, runs]), "paper")

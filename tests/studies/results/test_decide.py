"""The analysis of every table: against known tests, on simulated studies, and on incomplete tables."""

import math

import numpy as np
import pandas as pd
import pytest
from benchmarks.decisions import LOOKS, SCENARIOS, by_decide, by_pairs, summarise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mnet import ConfigError
from mnet.studies import decide
from mnet.studies.results.decide import COLUMNS, differences, judge
from mnet.studies.results.estimates import Family, estimate, estimate_complete
from mnet.studies.results.looks import classify

CELLS = ["paper", "relu", "swish"]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def table(values: np.ndarray, cells: list[str] | None = None) -> pd.DataFrame:
    """Table of runs from values (seeds, cells), without the missing ones."""
    names = cells or [f"c{i}" for i in range(values.shape[1])]
    rows = [
        {"cell": name, "seed": seed, "top1": value}
        for seed, row in enumerate(values)
        for name, value in zip(names, row, strict=True)
        if math.isfinite(value)
    ]
    return pd.DataFrame(rows)


def noise(seeds: int, cells: int = 3, seed: int = 0) -> np.ndarray:
    return 90 + np.random.default_rng(seed).normal(0, 0.3, (seeds, cells))


def test_one_look_at_one_comparison_is_a_t_test():
    values = noise(12, 2, seed=4)
    row = decide(table(values), "c0").iloc[0]
    low, high = stats.ttest_ind(values[:, 1], values[:, 0]).confidence_interval(0.957)
    assert row["delta"] == pytest.approx(values[:, 1].mean() - values[:, 0].mean())
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.01)


def test_effects_shared_by_seeds_are_removed():
    """If runs of a seed share an effect, as int8 runs from one fp32 run do, the interval is that of pairs."""
    values = noise(12, 2)
    shared = values + 5 * np.arange(12)[:, None]
    row = decide(table(shared), "c0").iloc[0]
    low, high = stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.957)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.01)


def test_one_look_at_several_comparisons_reaches_as_far_as_dunnetts():
    values = noise(30, 4)
    rows = decide(table(values), "c0")
    oracle = stats.dunnett(*values[:, 1:].T, control=values[:, 0], random_state=0).confidence_interval(0.957)
    assert rows["low"].to_numpy() == pytest.approx(oracle.low, abs=0.01)
    assert rows["high"].to_numpy() == pytest.approx(oracle.high, abs=0.01)


def test_other_cells_help_to_estimate_how_much_runs_differ():
    """At three seeds, three more cells narrow the interval between two by a quarter."""

    def width(cells: int, seed: int) -> float:
        values = pd.DataFrame(noise(3, cells, seed))
        return float(np.ptp(judge(values, differences(values, [(1, 0)]), margin=None)[["low", "high"]].iloc[0]))

    assert sum(width(5, seed) for seed in range(40)) < 0.75 * sum(width(2, seed) for seed in range(40))


def test_a_cell_with_another_spread_is_judged_by_it_and_does_not_widen_the_others():
    values = noise(10, 4)
    quiet = decide(table(values), "c0").set_index("cell")
    values[:, 3] = 90 + 10 * (values[:, 3] - 90)
    loud = decide(table(values), "c0").set_index("cell")
    width = {name: (row["high"] - row["low"]) for name, row in loud.iterrows()}
    assert width["c3"] > 4 * width["c1"]
    assert width["c1"] < 1.3 * (quiet.loc["c1", "high"] - quiet.loc["c1", "low"])


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("no effect", 0.05),
        pytest.param(
            "no effect, seeds have one", 0.05, marks=pytest.mark.full("the scenario without effects of seeds")
        ),
        pytest.param("no effect, a cell of 3 times the spread", 0.05, marks=pytest.mark.full("as above")),
        pytest.param("no effect, a baseline of 3 times the spread", 0.05, marks=pytest.mark.full("as above")),
        pytest.param("no effect, tails of a t distribution with 5 df", 0.065, marks=pytest.mark.full("as above")),
        pytest.param("no effect, a tenth of the runs missing", 0.05, marks=pytest.mark.full("as above")),
        pytest.param("no effect, a tenth missing, seeds have one", 0.05, marks=pytest.mark.full("as above")),
    ],
)
def test_studies_without_an_effect_are_called_up_or_down_in_at_most_5_percent(name, most):
    """Over all three cells and all eleven looks, in 10,000 studies."""
    outcome = summarise(by_decide(BY_NAME[name].runs(10_000)), BY_NAME[name])
    assert 0.01 < outcome.wrong <= most
    assert outcome.coverage >= 0.95


def test_looking_eleven_times_without_taking_it_into_account_errs_more_often():
    scenario = BY_NAME["no effect"]
    assert summarise(by_pairs(scenario.runs(2000)), scenario).wrong > 0.12


def test_an_effect_is_found_with_its_sign_and_a_large_one_soon():
    large = summarise(by_decide(BY_NAME["effect of 1 point"].runs(500)), BY_NAME["effect of 1 point"])
    assert large.seeds < 6.5
    assert large.undecided == 0
    rows = decide(table(noise(8) + np.array([0, 1.0, -1.0])), "c0", looks=[3, 5, 8])
    assert rows["verdict"].tolist() == ["up", "down"]
    assert (rows["look"] <= 5).all()


def test_a_decision_stays_and_names_the_look_that_made_it():
    values = noise(12) + np.array([0, 2.0, 0.0])
    early = decide(table(values[:3]), "c0", looks=[3, 6, 12]).set_index("cell")
    late = decide(table(values), "c0", looks=[3, 6, 12]).set_index("cell")
    assert (early.loc["c1", "verdict"], early.loc["c1", "look"]) == ("up", 3)
    assert (late.loc["c1", "verdict"], late.loc["c1", "look"], late.loc["c1", "n"]) == ("up", 3, 12)
    assert late.loc["c1", "low"] >= early.loc["c1", "low"]


def test_more_looks_widen_an_interval_and_a_look_that_was_not_planned_is_one():
    runs = table(noise(8))
    once, planned = decide(runs, "c0"), decide(runs, "c0", looks=[3, 5, 8])
    by_hand = decide(runs, "c0", looks=[3, 5])
    assert (planned["high"] - planned["low"] > once["high"] - once["low"]).all()
    pd.testing.assert_frame_equal(by_hand, planned)


def test_nothing_is_decided_before_the_first_look():
    runs = table(noise(8) + np.array([0, 2.0, 0.0]))
    early = decide(runs[runs["seed"] < 5], "c0", looks=[8])
    assert set(early["verdict"]) == {"undecided"}
    assert early.loc[0, "low"] > 0
    assert decide(runs, "c0", looks=[8]).loc[0, "verdict"] == "up"


def test_an_equality_needs_seeds_until_it_lies_inside_or_outside_the_margin():
    values = 3 * noise(4, 2)
    values[:, 1] += values[:, 0].mean() - values[:, 1].mean() + 0.4  # far from zero, close to the margin
    pair = np.array([[-1.0, 1.0]])
    effect, equality = (
        judge(pd.DataFrame(values), pair, margin=0.5, equality=each).loc[0, "seeds_needed"] for each in (False, True)
    )
    assert equality > 8 * effect > 8 * 4


def test_between_two_looks_the_last_one_counts():
    values = noise(7)
    at_five = decide(table(values[:5]), "c0", looks=[3, 5, 8])
    between = decide(table(values), "c0", looks=[3, 5, 8])
    pd.testing.assert_frame_equal(between.drop(columns="n"), at_five.drop(columns="n"))
    assert between["n"].tolist() == [7, 7]


def test_a_stopped_cell_keeps_its_verdict_while_others_continue():
    values = noise(12) + np.array([0, 2.0, 0.0])
    values[3:, 1] = math.nan
    rows = decide(table(values), "c0", looks=[3, 6, 12]).set_index("cell")
    assert (rows.loc["c1", "verdict"], rows.loc["c1", "look"], rows.loc["c1", "n"]) == ("up", 3, 3)
    assert rows.loc["c2", "n"] == 12


def test_equal_runs_are_the_same_network():
    values = noise(4)
    values[:, 1] = values[:, 0]
    row, other = decide(table(values), "c0").to_dict("records")
    assert [row[name] for name in ("delta", "low", "high", "p", "verdict")] == [0.0, 0.0, 0.0, 1.0, "flat"]
    assert other["low"] < other["high"]


@pytest.mark.parametrize("values", [noise(1), np.full((1, 2), 50.0)], ids=["different", "equal by chance"])
def test_without_a_repetition_there_is_no_interval(values):
    row = decide(table(values), "c0").iloc[0]
    assert math.isnan(row["low"])
    assert math.isnan(row["p"])
    assert (row["verdict"], row["n"]) == ("undecided", 1)


def test_differences_without_noise_are_certain():
    values = np.tile([90.0, 91.0, 90.0], (3, 1)) + 0.1 * np.arange(3)[:, None]
    row = decide(table(values), "c0").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((1.0, 1.0))
    assert (row["verdict"], row["p"] < 0.001) == ("up", True)


def test_columns_order_and_missing_runs():
    values = noise(6)
    values[2, 1] = values[4, 0] = math.nan
    runs = table(values, CELLS).sample(frac=1, random_state=3)
    rows = decide(runs, "paper")
    assert list(rows) == list(COLUMNS)
    assert list(rows["cell"]) == [name for name in dict.fromkeys(runs["cell"]) if name != "paper"]
    assert rows.set_index("cell")["n"].to_dict() == {"relu": 5, "swish": 6}
    assert decide(runs[runs["cell"] == "paper"], "paper").empty


@given(st.floats(0.1, 1e6), st.floats(-1e3, 1e3), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_unit_and_the_origin_of_the_metric_do_not_matter(scale, origin, seed):
    values = noise(4, 3, seed)
    plain = decide(table(values), "c0", margin=0.5)
    moved = decide(table(scale * values + origin), "c0", margin=0.5 * scale)
    assert moved["verdict"].tolist() == plain["verdict"].tolist()
    assert moved["low"].to_numpy() / scale == pytest.approx(plain["low"].to_numpy(), rel=1e-3, abs=1e-4)


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_swapping_two_cells_mirrors_the_interval(seed):
    values = noise(4, 2, seed)
    there, back = decide(table(values), "c0").iloc[0], decide(table(values), "c1").iloc[0]
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert there["verdict"] == {"up": "down", "down": "up"}.get(back["verdict"], back["verdict"])


def test_groups_share_a_spread_but_no_effects_of_seeds():
    """int8 against fp32 in two networks: what the seeds of one have in common says nothing about the other."""
    generator = np.random.default_rng(0)
    starts = generator.normal(0, 5, (8, 2))
    drops = generator.normal(0, 0.05, (8, 4))
    columns = {"a fp32": starts[:, 0], "a int8": starts[:, 0] - 1, "b fp32": starts[:, 1], "b int8": starts[:, 1]}
    values = pd.DataFrame(columns) + drops
    contrasts = differences(values, [("a int8", "a fp32"), ("b int8", "b fp32")])
    rows = judge(values, contrasts, margin=0.5, groups=[0, 0, 1, 1])
    assert rows["verdict"].tolist() == ["down", "flat"]
    assert judge(values, contrasts, margin=0.5)["verdict"].tolist() == ["undecided", "undecided"]


def test_seeds_needed_are_those_at_which_the_same_numbers_decide():
    values = pd.DataFrame(noise(5, 2))
    contrasts = differences(values, [(1, 0)])
    row = judge(values, contrasts, margin=0.2, looks=LOOKS).iloc[0]
    assert row["verdict"] == "undecided"
    needed = int(row["seeds_needed"])
    repeated = pd.concat([values] * (needed // 5 + 2), ignore_index=True)  # the same mean, about the same spread
    after = [
        judge(repeated[:n], contrasts, margin=0.2, looks=LOOKS)["verdict"].iloc[0] for n in (needed // 2, 2 * needed)
    ]
    assert after == ["undecided", after[1]]
    assert after[1] != "undecided"


@pytest.mark.parametrize(
    ("low", "high", "margin", "word"),
    [
        (0.1, 0.9, None, "up"),
        (-0.9, -0.1, None, "down"),
        (-0.1, 0.1, None, "undecided"),  # without a margin nothing is flat
        (-0.1, 0.1, 0.5, "flat"),
        (0.1, 0.4, 0.5, "flat"),  # certainly not zero, certainly within the margin
        (0.1, 0.5, 0.5, "up"),  # the margin itself is outside
        (-0.5, 0.1, 0.5, "undecided"),
        (math.nan, math.nan, 0.5, "undecided"),
    ],
)
def test_a_verdict_follows_from_interval_and_margin(low, high, margin, word):
    assert classify(low, high, margin) == word
    assert classify(-high, -low, margin) == {"up": "down", "down": "up"}.get(word, word)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "papr"}, "did you mean paper"),
        ({"metric": "top"}, "unknown column 'top'"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"looks": [5, 3]}, "looks must be ascending numbers of seeds from 2 on"),
        ({"looks": [1, 3]}, "looks must be"),
        ({"looks": []}, "looks must be"),
    ],
)
def test_bad_input_is_one_error(arguments, message):
    with pytest.raises(ConfigError, match="(?i)" + message):
        decide(table(noise(3), CELLS), **{"baseline": "paper", **arguments})


@pytest.mark.parametrize("groups", [(0, 0, 0), (0, 1, 0)])
def test_what_is_simulated_without_matrices_is_what_the_analysis_of_any_values_finds(groups):
    family = Family(groups, ((-1.0, 0.0, 1.0), (-1.0, 1.0, 0.0)))
    values = (
        np.random.default_rng(0).normal(size=(40, 6, 3)) + np.arange(6)[:, None] * (np.arange(40) % 2)[:, None, None]
    )
    for look, fast in zip((3, 6), estimate_complete(values, (3, 6), family), strict=True):
        slow = estimate(values[:, :look], family)
        np.testing.assert_allclose(fast.se, slow.se, rtol=1e-9)
        np.testing.assert_allclose(fast.df, slow.df)
        known = np.isfinite(slow.se)
        np.testing.assert_allclose(fast.delta[known], slow.delta[known], atol=1e-9)

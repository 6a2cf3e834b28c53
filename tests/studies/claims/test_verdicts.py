"""The rule from an interval to a verdict, over all intervals."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnet.studies.claims.claims import Claim
from mnet.studies.claims.verdicts import (
    RATIO_MARGIN,
    RULE,
    claim_verdict,
    judge_difference,
    judge_latency,
    ratio_verdict,
)

numbers = st.floats(-5, 5)
estimates = st.tuples(numbers, numbers, numbers).map(sorted)
"""Low end, estimate, high end."""
margins = st.floats(0.01, 2)
directions = st.sampled_from(["up", "down"])
printed_ones = st.none() | numbers
OTHER = {"up": "down", "down": "up", "flat": "flat"}


@given(estimates, directions, margins, st.none() | st.floats(0.01, 5))
@example([0.0, 0.0, 0.0], "up", 0.5, None)
@example([0.0, 0.5, 1.0], "up", 0.5, 0.7)
def test_a_claimed_direction_needs_an_interval_wholly_on_its_side(estimate, direction, margin, size):
    low, ours, high = estimate
    sign = 1 if direction == "up" else -1
    result = claim_verdict(ours, low, high, direction, margin, None if size is None else sign * size)
    right, wrong = min(sign * low, sign * high) > 0, max(sign * low, sign * high) < 0
    assert right or result not in ("reproduced", "weaker", "stronger")
    assert (result == "contradicted") == (wrong and not (-margin < low and high < margin))
    assert (result == "undecided") == (low <= 0 <= high and not (-margin < low and high < margin))


@given(estimates, margins, st.floats(0.01, 25))
@example([2.0, 2.5, 3.0], 0.5, 20.0)
def test_another_size_than_printed_is_never_reproduced(estimate, margin, printed):
    """For example 2.5 does not reproduce 20."""
    low, ours, high = estimate
    result = claim_verdict(ours, low, high, "up", margin, printed)
    fits = low <= printed <= high or abs(ours - printed) <= margin
    assert (result == "reproduced") == (low > 0 and fits)
    assert result != "weaker" or (high < printed and ours < printed - margin)
    assert result != "stronger" or (low > printed and ours > printed + margin)
    assert (result == "absent") == (-margin < low and high < margin and not (low > 0 and fits))


@given(estimates, margins, printed_ones)
@example([-0.5, 0.0, 0.4], 0.5, None)
@example([0.5, 0.6, 0.9], 0.5, 0.1)
def test_no_difference_is_reproduced_only_by_an_interval_wholly_inside_the_margin(estimate, margin, printed):
    low, ours, high = estimate
    result = claim_verdict(ours, low, high, "flat", margin, printed)
    assert (result == "reproduced") == (-margin < low and high < margin)
    assert (result == "contradicted") == (high < -margin or low > margin)


@given(estimates, st.sampled_from(["up", "down", "flat"]), margins, printed_ones)
def test_swapping_baseline_and_variant_mirrors_a_verdict(estimate, direction, margin, printed):
    low, ours, high = estimate
    mirrored = None if printed is None else -printed
    result = claim_verdict(ours, low, high, direction, margin, printed)
    assert claim_verdict(-ours, -high, -low, OTHER[direction], margin, mirrored) == result
    printed = 1.0 if printed is None else printed
    ratio = ratio_verdict(*map(math.exp, (ours, low, high)), direction, margin, math.exp(printed))
    swapped = ratio_verdict(*map(math.exp, (-ours, -high, -low)), OTHER[direction], margin, math.exp(-printed))
    assert swapped == ratio


@pytest.mark.parametrize(
    ("ours", "low", "high", "direction", "printed", "result"),
    [
        (0.98, 0.979, 0.987, "down", None, "reproduced"),
        (0.80, 0.79, 0.81, "down", 0.79, "reproduced"),
        (0.80, 0.79, 0.81, "down", 0.60, "weaker"),
        (0.80, 0.79, 0.81, "down", 0.95, "stronger"),
        (0.98, 0.979, 1.01, "down", 0.80, "absent"),
        (0.99, 0.940, 1.0, "down", 0.80, "undecided"),
        (1.2, 1.1, 1.3, "down", 0.80, "contradicted"),
        (1.09, 1.081, 1.095, "flat", 1.0, "contradicted"),
        (1.0, 0.953, 1.049, "flat", 1.0, "reproduced"),
        (1.0, 0.951, 1.049, "flat", 1.0, "undecided"),
        (1.0, math.nan, math.nan, "flat", 1.0, "undecided"),
    ],
)
def test_a_ratio_of_one_is_no_difference(ours, low, high, direction, printed, result):
    assert ratio_verdict(ours, low, high, direction, RATIO_MARGIN, printed) == result


def test_the_rule_states_its_margins():
    assert "0.5 points" in RULE
    assert "5%" in RULE


def test_the_margin_of_a_claim_comes_before_the_default():
    common = {"id": "a", "study": "se", "paper": "v3", "source": "", "statement": "", "verified": True, "seen_in": ""}
    claim = Claim(**common, metric="latency_ratio", kind="latency", direction="flat")
    verdict, why = judge_latency(claim, 1.1, 1.08, 1.12, on_gpu=True)
    assert verdict == "contradicted"
    assert why == "the interval lies outside the margin, 5% of 1; on a GPU instead of a phone's processor"
    assert judge_latency(replace(claim, margin=0.2), 1.1, 1.08, 1.12, on_gpu=False)[0] == "reproduced"
    points = replace(claim, metric="top1_points", kind="accuracy")
    assert judge_difference(points, 0.7, 0.6, 0.8) == "contradicted"
    assert judge_difference(replace(points, margin=1.0), 0.7, 0.6, 0.8) == "reproduced"

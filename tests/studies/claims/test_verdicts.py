"""The rule from an interval to a verdict, over all intervals."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnet.studies.claims.verdicts import RATIO_MARGIN, RULE, claim_verdict, ratio_verdict

ends = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted)
margins = st.floats(0.01, 2)
directions = st.sampled_from(["up", "down"])
OPPOSITE = {"reproduced": "contradicted", "contradicted": "reproduced", "inconclusive": "inconclusive"}
OTHER = {"up": "down", "down": "up", "flat": "flat"}


@given(ends, directions, margins)
@example([0.0, 0.0], "up", 0.5)
@example([0.0, 1.0], "up", 0.5)
def test_a_direction_is_reproduced_only_by_an_interval_wholly_on_its_side(interval, direction, margin):
    low, high = interval
    found = claim_verdict(low, high, direction, margin)
    sign = 1 if direction == "up" else -1
    assert (found == "inconclusive") == (low <= 0 <= high)
    assert (found == "reproduced") == (min(sign * low, sign * high) > 0)
    assert found == claim_verdict(low, high, direction, 10 * margin)  # a margin has no part in it


@given(ends, margins)
@example([-0.5, 0.4], 0.5)
@example([0.5, 0.9], 0.5)
def test_no_difference_is_reproduced_only_by_an_interval_wholly_inside_the_margin(interval, margin):
    low, high = interval
    found = claim_verdict(low, high, "flat", margin)
    assert (found == "reproduced") == (-margin < low and high < margin)
    assert (found == "contradicted") == (high < -margin or low > margin)


@given(ends, st.sampled_from(["up", "down", "flat"]), margins)
def test_swapping_baseline_and_variant_mirrors_a_verdict(interval, direction, margin):
    low, high = interval
    found = claim_verdict(low, high, direction, margin)
    assert claim_verdict(-high, -low, OTHER[direction], margin) == found
    if direction != "flat":
        assert claim_verdict(low, high, OTHER[direction], margin) == OPPOSITE[found]
    ratio = ratio_verdict(math.exp(low), math.exp(high), direction, margin)
    assert ratio_verdict(math.exp(-high), math.exp(-low), OTHER[direction], margin) == ratio


@pytest.mark.parametrize(
    ("low", "high", "direction", "found"),
    [
        (0.979, 0.987, "down", "reproduced"),
        (0.979, 1.0, "down", "inconclusive"),
        (1.081, 1.095, "flat", "contradicted"),
        (0.953, 1.049, "flat", "reproduced"),
        (0.951, 1.049, "flat", "inconclusive"),
        (math.nan, math.nan, "flat", "inconclusive"),
    ],
)
def test_of_ratios_one_is_no_difference(low, high, direction, found):
    assert ratio_verdict(low, high, direction, RATIO_MARGIN) == found


def test_the_rule_says_its_margins():
    assert "0.5 points" in RULE
    assert "5%" in RULE

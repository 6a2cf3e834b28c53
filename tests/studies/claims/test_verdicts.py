"""The rule from an interval to a verdict, over all intervals."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnet.studies.claims.claims import Claim
from mnet.studies.claims.verdicts import RATIO_MARGIN, RULE, claim_verdict, judge_difference, judge_ratio, ratio_verdict

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
    result = claim_verdict(low, high, direction, margin)
    sign = 1 if direction == "up" else -1
    assert (result == "inconclusive") == (low <= 0 <= high)
    assert (result == "reproduced") == (min(sign * low, sign * high) > 0)
    assert result == claim_verdict(low, high, direction, 10 * margin)  # the margin does not matter


@given(ends, margins)
@example([-0.5, 0.4], 0.5)
@example([0.5, 0.9], 0.5)
def test_no_difference_is_reproduced_only_by_an_interval_wholly_inside_the_margin(interval, margin):
    low, high = interval
    result = claim_verdict(low, high, "flat", margin)
    assert (result == "reproduced") == (-margin < low and high < margin)
    assert (result == "contradicted") == (high < -margin or low > margin)


@given(ends, st.sampled_from(["up", "down", "flat"]), margins)
def test_swapping_baseline_and_variant_mirrors_a_verdict(interval, direction, margin):
    low, high = interval
    result = claim_verdict(low, high, direction, margin)
    assert claim_verdict(-high, -low, OTHER[direction], margin) == result
    if direction != "flat":
        assert claim_verdict(low, high, OTHER[direction], margin) == OPPOSITE[result]
    ratio = ratio_verdict(math.exp(low), math.exp(high), direction, margin)
    assert ratio_verdict(math.exp(-high), math.exp(-low), OTHER[direction], margin) == ratio


@pytest.mark.parametrize(
    ("low", "high", "direction", "result"),
    [
        (0.979, 0.987, "down", "reproduced"),
        (0.979, 1.0, "down", "inconclusive"),
        (1.081, 1.095, "flat", "contradicted"),
        (0.953, 1.049, "flat", "reproduced"),
        (0.951, 1.049, "flat", "inconclusive"),
        (math.nan, math.nan, "flat", "inconclusive"),
    ],
)
def test_a_ratio_of_one_is_no_difference(low, high, direction, result):
    assert ratio_verdict(low, high, direction, RATIO_MARGIN) == result


def test_the_rule_states_its_margins():
    assert "0.5 points" in RULE
    assert "5%" in RULE


def test_the_margin_of_a_claim_comes_before_the_default():
    common = {"id": "a", "study": "se", "paper": "v3", "source": "", "statement": "", "verified": True, "seen_in": ""}
    claim = Claim(**common, metric="latency_ratio", kind="latency", direction="flat")
    assert judge_ratio(claim, 1.08, 1.12) == "contradicted"
    assert judge_ratio(replace(claim, margin=0.2), 1.08, 1.12) == "reproduced"
    points = replace(claim, metric="top1_points", kind="accuracy")
    assert judge_difference(points, 0.6, 0.8) == "contradicted"
    assert judge_difference(replace(points, margin=1.0), 0.6, 0.8) == "reproduced"

"""From an interval to a verdict on a claim: one rule, for accuracies, latencies and counts."""

from __future__ import annotations

import math
from typing import Literal

from mnet.studies.claims.claims import Claim

ClaimVerdict = Literal["reproduced", "contradicted", "inconclusive", "not tested here"]
VERDICTS: tuple[ClaimVerdict, ...] = ("reproduced", "contradicted", "inconclusive", "not tested here")

POINTS_MARGIN = 0.5
"""Points. `flat` allows a smaller loss of accuracy, unless the claim has its own margin."""
RATIO_MARGIN = 0.05
"""`flat` allows ratios between 1 / 1.05 and 1.05, and counts may be as far from the printed ones. V3 compares 15.8 with
16.6 ms "at equal latency", a ratio of 0.952 (table 3)."""

RULE = f"""\
A claim says that a variant is above (up) or below (down) its baseline, or that the two do not differ (flat). We \
measure variant minus baseline in points of top-1, mAP or mIoU, or variant over baseline in milliseconds, with a 95% \
interval.

Up or down is reproduced when the whole interval lies on the claimed side of no difference, contradicted when the whole
interval lies on the other side, else inconclusive: an interval that contains no difference does not show a direction.

Flat is reproduced only when the whole interval lies inside the margin ({POINTS_MARGIN} points, or a ratio within \
{RATIO_MARGIN:.0%}, unless the claim has its own), contradicted when it lies wholly outside, else inconclusive: to \
find no difference does not show that there is none.

Counts have no interval. They are reproduced when they round to every printed digit or lie within {RATIO_MARGIN:.0%} \
of what is printed, as noted with the claim; else contradicted.

Only the direction is tested, never the size: images, length of training and processor differ from the papers'. Each
claim is judged by its own interval, without correction for their number."""


def margin_of(claim: Claim) -> float:
    """The margin of a claim, in the unit of its measurement."""
    if claim.margin is not None:
        return claim.margin
    return RATIO_MARGIN if claim.kind in ("latency", "arithmetic") else POINTS_MARGIN


def judge_difference(claim: Claim, low: float, high: float) -> ClaimVerdict:
    """`RULE` for the 95% interval of variant - baseline; nan where there is no interval."""
    return claim_verdict(low, high, claim.direction, margin_of(claim))


def judge_ratio(claim: Claim, low: float, high: float) -> ClaimVerdict:
    """`RULE` for the 95% interval of variant / baseline."""
    return ratio_verdict(low, high, claim.direction, margin_of(claim))


def claim_verdict(low: float, high: float, direction: str | None, margin: float) -> ClaimVerdict:
    """`RULE` for an interval of variant - baseline.

    Args:
        low: Lower end of the interval; nan where there is none.
        high: Upper end.
        direction: up, down or flat.
        margin: What flat allows, in the unit of the interval.
    """
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if direction == "flat":
        if -margin < low and high < margin:
            return "reproduced"
        return "contradicted" if high < -margin or low > margin else "inconclusive"
    if direction == "down":
        low, high = -high, -low
    return "reproduced" if low > 0 else "contradicted" if high < 0 else "inconclusive"


def ratio_verdict(low: float, high: float, direction: str | None, margin: float) -> ClaimVerdict:
    """`RULE` for an interval of variant / baseline, by logarithms: swapping the networks mirrors the verdict."""
    return claim_verdict(math.log(low), math.log(high), direction, math.log1p(margin))

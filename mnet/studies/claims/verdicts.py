"""What a measurement says of a claim: one rule, for accuracies, latencies and counts."""

from __future__ import annotations

import math
from typing import Literal

ClaimVerdict = Literal["reproduced", "contradicted", "inconclusive", "not tested here"]
VERDICTS: tuple[ClaimVerdict, ...] = ("reproduced", "contradicted", "inconclusive", "not tested here")

POINTS_MARGIN = 0.5
"""Points: a smaller loss of accuracy is none, unless the claim has a margin of its own."""
RATIO_MARGIN = 0.05
"""Ratios between 1 / 1.05 and 1.05 are about 1, and counts so near to the printed ones agree. V3's own "at equal
latency" compares 15.8 with 16.6 ms, a ratio of 0.952 (table 3)."""

RULE = f"""\
A claim says that a variant is above (up) or below (down) its baseline, or that the two do not differ (flat). We measure
variant minus baseline in points of top-1, mAP or mIoU, or variant over baseline in milliseconds, with a 95% interval.

Up or down is reproduced when the whole interval lies on the claimed side of no difference, contradicted when the whole
interval lies on the other side, else inconclusive: an interval that contains no difference says nothing of a direction.

Flat is reproduced only when the whole interval lies inside the margin ({POINTS_MARGIN} points, or a ratio within \
{RATIO_MARGIN:.0%}, unless the claim says another), contradicted when it lies wholly outside, else inconclusive: no \
difference found is not no difference.

Counts have no interval. They are reproduced when they round to every printed digit or lie within {RATIO_MARGIN:.0%} \
of what is printed, which is then said; else contradicted.

Only the direction is tested, never the size: ours are other images, shorter trainings and another processor. Each
claim is judged by its own interval, without correction for their number."""


def claim_verdict(low: float, high: float, direction: str | None, margin: float) -> ClaimVerdict:
    """`RULE`, for an interval of variant - baseline.

    Args:
        low, high: Of a 95% interval about a difference; of a ratio, see `ratio_verdict`. nan where there is none.
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


def ratio_verdict(low: float, high: float, direction: str | None, margin: float = RATIO_MARGIN) -> ClaimVerdict:
    """`RULE`, for an interval of variant / baseline; so that swapping the two mirrors it, on a logarithmic scale."""
    return claim_verdict(math.log(low), math.log(high), direction, math.log1p(margin))

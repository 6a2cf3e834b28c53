"""From an interval to a verdict on a claim: one rule, for accuracies, latencies and counts."""

from __future__ import annotations

import math
from typing import Literal

from mnet.studies.claims.claims import Claim
from mnet.studies.results.statistics import MARGIN, at_most

ClaimVerdict = Literal["reproduced", "weaker", "stronger", "absent", "contradicted", "undecided", "not tested here"]
VERDICTS: tuple[ClaimVerdict, ...] = (
    "reproduced", "weaker", "stronger", "absent", "contradicted", "undecided", "not tested here",
)  # fmt: skip

RATIO_MARGIN = 0.05
"""Ratios between 1 / 1.05 and 1.05 are of no interest, and counts may be this far from printed ones. V3 compares 15.8
with 16.6 ms "at equal latency", a ratio of 0.952 (table 3)."""

RULE = f"""\
A claim says that a variant is above (up) or below (down) its baseline, or that the two do not differ (flat). We \
measure variant minus baseline in points of top-1, mAP or mIoU, or variant over baseline in milliseconds, with a 95% \
interval. The margin, below which a difference is of no interest, is {MARGIN} points, or a ratio within \
{RATIO_MARGIN:.0%} of 1, unless the claim has its own.

Up or down is judged by direction and size. Where the whole interval lies on the claimed side of no difference, the
claim is reproduced if the paper prints no number, or one that lies in our interval or within the margin of our
estimate; else the effect is weaker or stronger than printed. Where the whole interval lies inside the margin, and the
claim is not reproduced, the effect is absent. Where it lies on the other side, the claim is contradicted.

Flat is reproduced when the whole interval lies inside the margin, and contradicted when it lies wholly outside.

Everything else is undecided: an interval that contains no difference shows neither a direction nor that there is none.

Counts have no interval. They are reproduced when they round to every printed digit or lie within {RATIO_MARGIN:.0%} \
of what is printed, as noted with the claim; else contradicted.

Images, length of training and processor differ from the papers', so a size that differs says that the effect is \
another here, not that the paper is wrong. Each claim is judged by its own interval, without correction for their \
number."""


def margin_of(claim: Claim) -> float:
    """The margin of a claim, in the unit of its measurement."""
    if claim.margin is not None:
        return claim.margin
    return RATIO_MARGIN if claim.kind in ("latency", "arithmetic") else MARGIN


def judge_difference(claim: Claim, delta: float, low: float, high: float) -> ClaimVerdict:
    """`RULE` for variant - baseline and its 95% interval; nan if there is no interval."""
    return claim_verdict(delta, low, high, claim.direction, margin_of(claim), claim.printed)


def judge_latency(claim: Claim, ratio: float, low: float, high: float, *, on_gpu: bool) -> tuple[ClaimVerdict, str]:
    """`RULE` for variant / baseline in milliseconds and its 95% interval.

    Returns:
        The verdict, and the reason for it with the kind of processor.
    """
    verdict = ratio_verdict(ratio, low, high, claim.direction, margin_of(claim), claim.printed)
    processor = "a GPU instead of a phone's processor" if on_gpu else "a server's processor instead of a phone's"
    return verdict, f"{reason_for(verdict, claim, 'ratio')}; on {processor}"


def claim_verdict(
    estimate: float, low: float, high: float, direction: str | None, margin: float, printed: float | None = None
) -> ClaimVerdict:
    """`RULE` for an estimate of variant - baseline.

    Args:
        estimate: The difference.
        low: Lower end of its interval; nan if there is none.
        high: Upper end.
        direction: up, down or flat.
        margin: Smallest difference of interest, in the unit of the interval.
        printed: The paper's number; None = it prints none, or none that was verified.
    """
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    inside = -margin < low and high < margin
    if direction == "flat":
        outside = high < -margin or low > margin
        return "reproduced" if inside else "contradicted" if outside else "undecided"
    if direction == "down":
        estimate, low, high = -estimate, -high, -low
        printed = None if printed is None else -printed
    right = low > 0
    if right and (printed is None or low <= printed <= high or abs(estimate - printed) <= margin):
        return "reproduced"
    if inside:
        return "absent"
    if right and printed is not None:
        return "weaker" if high < printed else "stronger"
    return "contradicted" if high < 0 else "undecided"


def ratio_verdict(
    estimate: float, low: float, high: float, direction: str | None, margin: float, printed: float | None = None
) -> ClaimVerdict:
    """`RULE` for an estimate of variant / baseline, on logarithms: swapping the networks mirrors the verdict."""
    size = None if printed is None else math.log(printed)
    return claim_verdict(math.log(estimate), math.log(low), math.log(high), direction, math.log1p(margin), size)


def reason_for(verdict: ClaimVerdict, claim: Claim, unit: str, interval: tuple[float, float] | None = None) -> str:
    """Why a measured claim has its verdict, as a clause."""
    margin = margin_of(claim)
    zero, allowed = ("1", f"{margin:.0%} of 1") if unit == "ratio" else ("0", f"{margin:g} points")
    if interval is not None and math.isnan(interval[0]):
        return "one seed has no interval"
    if claim.direction == "flat":
        place = {"reproduced": "lies inside", "contradicted": "lies outside", "undecided": "crosses"}
        return f"the interval {place.get(verdict, '')} the margin, {allowed}"
    if verdict == "absent":
        return f"the whole interval lies within {allowed}"
    if verdict == "undecided":
        most = "" if interval is None else f"; the difference is at most {at_most(*interval):.2f} points"
        return f"the interval contains {zero}{most}"
    claimed = claim.direction == "up"
    side = "below" if claimed == (verdict == "contradicted") else "above"
    size = {"weaker": ", nearer to it than printed", "stronger": ", further from it than printed"}.get(verdict, "")
    return f"the whole interval is {side} {zero}{size}"

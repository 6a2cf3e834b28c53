"""What a measured ratio says of a claimed one."""

from __future__ import annotations

import math
from typing import Literal

MARGIN = 0.05
"""A claim of no difference holds if the whole interval lies within so much of 1. V3's own "at equal latency" compares
15.8 with 16.6 ms, a ratio of 0.952 (table 3)."""

LatencyVerdict = Literal["reproduced", "contradicted", "inconclusive"]


def latency_verdict(low: float, high: float, direction: str | None, margin: float = MARGIN) -> LatencyVerdict:
    """Whether a 95% interval of a ratio lies where the claim says: below 1 (down), above (up), or about 1 (flat).

    The direction is tested, not the size: that is another machine's.
    """
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if direction == "flat":
        if 1 - margin < low and high < 1 + margin:
            return "reproduced"
        return "contradicted" if high < 1 - margin or low > 1 + margin else "inconclusive"
    if direction == "up":
        low, high = -high, -low
        return "reproduced" if high < -1 else "contradicted" if low > -1 else "inconclusive"
    return "reproduced" if high < 1 else "contradicted" if low > 1 else "inconclusive"

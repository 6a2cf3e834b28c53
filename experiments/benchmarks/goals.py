"""A row of the benchmark: the ratio of two measured values, and its goal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mnet.latency import Ratio

SAME_NETWORK = (
    "only reading, image by image, can be faster; the rest of its step is the same network in the same kernels"
)
OTHER_PRECISION = "another precision gives another result: PRECISION=bf16 or tf32; make ablate-precision measures it"
REASONS = {
    "processes": "calls take a tenth to a third of a step, and strided products cost part of what joining them saves",
    "torchvision's loop": SAME_NETWORK,
    "timm's loop": SAME_NETWORK,
    "500 x 375": "what remains is scaling the crop and converting it to floats, which both do",
    "compiled": "a study compiles on request: COMPILE=reduce-overhead",
    "in bf16": OTHER_PRECISION,
    "import": "Lightning is not imported; beyond torch, this is the models, their tables and the latency tools",
}
"""Part of a row's name -> why its goal may be missed."""
Verdict = Literal["met", "NOT MET", "unclear", ""]
"""Empty for a row without a goal."""


@dataclass(frozen=True)
class Row:
    """A row of the table; the fields are the columns of bench.csv."""

    what: str
    ours: str
    theirs: str
    unit: str
    ours_value: float
    theirs_value: float
    ratio: float
    low: float
    high: float
    rounds: int
    goal: str
    verdict: Verdict
    note: str = ""

    @property
    def interval(self) -> str:
        return "one sample" if math.isnan(self.low) else f"[{self.low:.3f}, {self.high:.3f}]"


def time_row(what: str, ours: str, theirs: str, ratio: Ratio, *, at_most: float) -> Row:
    """Our time over theirs, where theirs is the baseline of `ratio`."""
    verdict = _judge(ratio.low, ratio.high, at_most)
    return _row(what, ours, theirs, ratio, (ratio.ms, ratio.baseline_ms), f"<= {at_most:g}", verdict)


def throughput_row(what: str, ours: str, theirs: str, ratio: Ratio, *, at_least: float | None) -> Row:
    """Our throughput over theirs, where ours is the baseline of `ratio`; `at_least` None = no goal."""
    verdict, goal = at_least_verdict(ratio.low, ratio.high, at_least)
    return _row(what, ours, theirs, ratio, (ratio.baseline_ms, ratio.ms), goal, verdict)


def at_least_verdict(low: float, high: float, goal: float | None) -> tuple[Verdict, str]:
    """Whether an interval reaches a goal, and the goal in words."""
    return ("", "") if goal is None else (_judge(-high, -low, -goal), f">= {goal:g}")


def _row(
    what: str, ours: str, theirs: str, ratio: Ratio, values_ms: tuple[float, float], goal: str, verdict: Verdict
) -> Row:
    reasons = (reason for part, reason in REASONS.items() if part in f"{what} {theirs}")
    return Row(
        what=what,
        ours=ours,
        theirs=theirs,
        unit="ms",
        ours_value=round(values_ms[0], 2),
        theirs_value=round(values_ms[1], 2),
        ratio=round(ratio.value, 4),
        low=round(ratio.low, 4),
        high=round(ratio.high, 4),
        rounds=ratio.rounds,
        goal=goal,
        verdict=verdict,
        note="" if verdict in ("met", "") else next(reasons, ""),
    )


def _judge(low: float, high: float, at_most: float) -> Verdict:
    """Met or not met if the whole interval agrees, else unclear."""
    if high <= at_most:
        return "met"
    return "NOT MET" if low > at_most else "unclear"


def one_sample_row(
    what: str,
    names: tuple[str, str],
    values: tuple[float, float],
    unit: str,
    *,
    ratio: float,
    at_most: float,
    note: str = "",
) -> Row:
    """A ratio without an interval. `names` and `values` are ours, then theirs."""
    return Row(
        what=what,
        ours=names[0],
        theirs=names[1],
        unit=unit,
        ours_value=values[0],
        theirs_value=values[1],
        ratio=round(ratio, 4),
        low=math.nan,
        high=math.nan,
        rounds=1,
        goal=f"<= {at_most:g}",
        verdict="met" if ratio <= at_most else "NOT MET",
        note=note,
    )

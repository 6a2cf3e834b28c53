"""The result of a comparison in one sentence."""

from __future__ import annotations

import math

from mnet.errors import counted
from mnet.studies.results.table_view import Row, format_interval, format_number, is_number

WORSE_OR_BETTER = {"up": "better", "down": "worse"}


def sentence(name: str, row: Row, margin: float, *, minutes_per_seed: float | None = None, unit: str = "points") -> str:
    """A row of `summary.csv` in words: `relu: -0.69 [-1.50, +0.10], at most 1.5 points worse; undecided within 0.5`.

    Args:
        name: What is compared.
        row: A row with `delta`, `low`, `high`, `verdict`, `pairs` and `seeds_needed`.
        margin: The margin of the verdict.
        minutes_per_seed: Minutes that one more seed takes; None = unknown.
        unit: Unit of the difference.
    """
    if not is_number(row["delta"]):
        return f"{name}: no run to compare"
    if not is_number(row["low"]):
        return f"{name}: {format_number(row['delta'], sign=True)}, no interval from one seed"
    interval = f"{format_number(row['delta'], sign=True)} {format_interval(row['low'], row['high'], sign=True)}"
    verdict = str(row["verdict"])
    if verdict == "flat":
        return f"{name}: {interval}, no difference of {margin:.3g} {unit}"
    if verdict in WORSE_OR_BETTER:
        return f"{name}: {interval}, {WORSE_OR_BETTER[verdict]}"
    known = bounds(row["low"], row["high"], margin, unit)
    return f"{name}: {interval}, {known}; undecided within {margin:.3g}{more(row, minutes_per_seed)}"


def bounds(low: float, high: float, margin: float, unit: str) -> str:
    """The limits that an undecided interval still shows, rounded up: `at most` must stay true."""
    down, up = (math.ceil(10 * max(0.0, end) - 1e-9) / 10 for end in (-low, high))
    worse, better = f"{down:.1f} {unit} worse", f"{up:.1f} better"
    if high < margin:
        return f"at most {worse}"
    return (
        f"at most {better.replace(' better', f' {unit} better')}" if low > -margin else f"at most {worse} or {better}"
    )


def more(row: Row, minutes_per_seed: float | None) -> str:
    """How many more seeds a decision takes, and how long."""
    needed, pairs = row.get("seeds_needed"), row.get("pairs")
    if not (is_number(needed) and is_number(pairs)):
        return ""
    seeds = max(1, math.ceil(needed - pairs))
    text = f": about {counted(seeds, 'more seed')}"
    return text if minutes_per_seed is None else f"{text}, {format_minutes(seeds * minutes_per_seed)}"


def format_minutes(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return counted(round(minutes), "minute") if minutes < 120 else f"{minutes / 60:.0f} hours"

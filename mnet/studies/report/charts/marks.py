"""What the charts are made of: rows with names above them, intervals, axes, and what all charts have alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from mnet.studies.results.table_view import Row, is_number

Spec = dict[str, Any]

INK = "currentColor"
LINE, STEP, LANE, LABEL = 15, 26, 10, 40
"""Pixels of a line of text, of a row's marks and of a further lane of marks; characters of a name on a line."""

INKED = alt.Color("ink:N", scale=None, legend=None)
TOLD = {"tooltip": alt.Tooltip("told:N"), "description": alt.Description("told:N")}
SHAPED = {"shape": alt.Shape("shape:N", scale=None, legend=None)}


@dataclass(frozen=True)
class Rows:
    """Names above rows of marks: long ones take several lines, and the marks have the full width."""

    names: tuple[str, ...]
    tops: tuple[int, ...]
    marks: tuple[int, ...]
    height: int


def lay_out(names: Sequence[str], lanes: int = 1) -> Rows:
    """Where each row's name and first lane of marks are, in pixels."""
    wrapped = [textwrap.wrap(name, LABEL) or [""] for name in names]
    tops, marks, y = [], [], 0
    for lines in wrapped:
        tops.append(y + 4)
        marks.append(y + 4 + LINE * len(lines) + STEP // 2 - 2)
        y += 4 + LINE * len(lines) + STEP + LANE * (lanes - 1)
    return Rows(tuple("\n".join(lines) for lines in wrapped), tuple(tops), tuple(marks), y + 4)


def frame(rows: Iterable[Row]) -> alt.InlineData:
    """Without what JSON cannot say."""
    return alt.InlineData(values=[{name: value for name, value in row.items() if fits(value)} for row in rows])


def fits(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def ends_of(centre: float, low: Any = None, high: Any = None) -> dict[str, float]:
    """An interval's ends; the centre itself where there is none."""
    return {"low": low, "high": high} if is_number(low) and is_number(high) else {"low": centre, "high": centre}


def axis(title: str, rows: Sequence[Row], *, through: float | None = None, log: bool = False) -> alt.X:
    """An x axis wide enough for what is drawn."""
    extent = [row[name] for row in rows for name in ("x", "low", "high") if is_number(row.get(name))]
    extent += [] if through is None else [through]
    low, high = min(extent), max(extent)
    if log:
        pad = 1.02 * (high / low) ** 0.06 if low < high else 1.3
        low, high = low / pad, high * pad
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=ticks_of(low, high), format="~g"))
    pad = 0.05 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers on a log axis: 1, 2 and 5 times powers of ten, or evenly spaced ones where it is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    found = [round(tick, 10) for tick in found if low <= tick <= high]
    if len(found) >= 4 or high / low > 4:
        return found
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (1, 0.5, 0.2, 0.1) if (high - low) / (step * part) >= 3)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def vertical(height: int, field: str = "y:Q") -> alt.Y:
    """Pixels from the top."""
    return alt.Y(field, axis=None, scale=alt.Scale(domain=[height, 0], nice=False, zero=False))


def head(rows: Rows, i: int, value: str) -> Row:
    """The name of a row, and the number at its right."""
    return {"label": rows.names[i], "value": value, "y": rows.tops[i]}


def names(heads: Sequence[Row], rows: Rows) -> list[alt.Chart]:
    """The names of rows and the numbers at the right, with a hair line between rows."""
    base = alt.Chart(frame(heads)).encode(y=vertical(rows.height))
    between = alt.Chart(frame(heads[1:])).mark_rule(strokeOpacity=0.12, color=INK, yOffset=-4, aria=False)
    return [
        between.encode(y=vertical(rows.height)),
        base.mark_text(align="left", lineBreak="\n", baseline="top", aria=False).encode(x=alt.value(0), text="label:N"),
        base.mark_text(align="right", baseline="top", aria=False).encode(x=alt.value("width"), text="value:N"),
    ]


def dots_of(dots: Sequence[Row], x: alt.X, height: int) -> alt.Chart:
    base = alt.Chart(frame(dots)).mark_point(filled=True, shape="circle", size=34, opacity=0.6)
    return base.encode(x=x, y=vertical(height), color=INKED, **TOLD)


def intervals(means: Sequence[Row], x: alt.X, height: int) -> list[alt.Chart]:
    """Means with their intervals; diamonds unless they have a shape of their own."""
    base = alt.Chart(frame({"shape": "diamond", **row} for row in means))
    rule = base.mark_rule(strokeWidth=1.5, aria=False)
    point = base.mark_point(filled=True, size=60, opacity=1)
    return [
        rule.encode(x=alt.X("low:Q", title=""), x2="high:Q", y=vertical(height), color=INKED),
        point.encode(x=x, y=vertical(height), color=INKED, **SHAPED, **TOLD),
    ]


def line_at(value: float, x: alt.X, height: int) -> alt.Chart:
    """Of no difference."""
    rule = alt.Chart(frame([{"x": value}])).mark_rule(strokeDash=[3, 3], strokeOpacity=0.7, color=INK, aria=False)
    return rule.encode(x=x)


FONT = "system-ui, sans-serif"
CONFIG: Spec = {
    "font": FONT,
    "background": "transparent",
    "view": {"stroke": None},
    "text": {"color": INK, "fontSize": 12},
    "axis": {
        **{"labelColor": INK, "titleColor": INK, "labelOpacity": 0.8, "titleOpacity": 0.9, "titleFontWeight": "normal"},
        **{"labelFontSize": 11, "titleFontSize": 12, "titlePadding": 8, "domain": False, "ticks": False},
        **{"gridColor": INK, "gridOpacity": 0.12, "labelOverlap": True, "labelPadding": 6},
    },
}


def finish(layers: Sequence[alt.Chart], height: int) -> Spec:
    """A layered specification as wide as its container."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    chart = chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    spec: Spec = chart.to_dict(validate=False)
    spec.pop("$schema")  # an address; the page says by itself what this is
    return {"padding": {"left": 1, "right": 1, "top": 4, "bottom": 4}, **spec, "config": CONFIG}

"""Parts of charts: rows with names above them, intervals, axes, legends, and the look that all charts share.

Names and settings enter a chart only as text in fields that this module names, never as a field name or an expression.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from mnet.studies.report.charts.colours import TEXT, Style
from mnet.studies.results.table_view import Row, is_number

Chart = alt.LayerChart | alt.ConcatChart

WIDTH = 420
"""Pixels of a panel in a file or notebook; in the report it has the width of its column."""
LINE, STEP, LANE, LABEL = 15, 26, 10, 44
"""Pixels of a line of text, of a row's marks and of each further lane of marks; characters of a name per line."""

DESCRIBED = {"tooltip": alt.Tooltip("text:N"), "description": alt.Description("text:N")}
CONFIG: Mapping[str, Any] = {
    "font": "system-ui, Liberation Sans, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "text": {"color": TEXT, "fontSize": 12},
    "title": {"color": TEXT, "anchor": "start", "fontSize": 13, "fontWeight": 600, "offset": 10},
    "axis": {
        **{"labelColor": TEXT, "labelOpacity": 0.8, "labelFontSize": 11, "labelOverlap": True, "labelPadding": 6},
        **{"titleColor": TEXT, "titleOpacity": 0.9, "titleFontSize": 12, "titleFontWeight": "normal"},
        **{"titlePadding": 8, "gridColor": TEXT, "gridOpacity": 0.12, "domain": False, "ticks": False},
    },
    "legend": {"orient": "top", "labelColor": TEXT, "labelFontSize": 11, "labelLimit": 0, "aria": False, "offset": 8},
}


@dataclass(frozen=True)
class Rows:
    """Names above rows of marks: long names take several lines, and the marks have the full width."""

    names: tuple[str, ...]
    tops: tuple[int, ...]
    marks: tuple[int, ...]
    height: int


def lay_out(names: Sequence[str], lanes: int = 1) -> Rows:
    """Where each row's name and first lane of marks are, in pixels from the top."""
    wrapped = [textwrap.wrap(name, LABEL) or [""] for name in names]
    tops, marks, y = [], [], 0
    for lines in wrapped:
        tops.append(y + 4)
        marks.append(y + 4 + LINE * len(lines) + STEP // 2 - 2)
        y += 4 + LINE * len(lines) + STEP + LANE * (lanes - 1)
    return Rows(tuple("\n".join(lines) for lines in wrapped), tuple(tops), tuple(marks), y + 4)


def data(rows: Iterable[Row]) -> alt.InlineData:
    """Rows as data of a chart, without values that JSON cannot express."""
    return alt.InlineData(values=[{name: value for name, value in row.items() if _fits(value)} for row in rows])


def _fits(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def ends(centre: float, low: Any = None, high: Any = None) -> dict[str, float]:
    """The ends of an interval; the centre itself if there is no interval."""
    return {"low": low, "high": high} if is_number(low) and is_number(high) else {"low": centre, "high": centre}


def x_axis(title: str | list[str], rows: Sequence[Row], *, through: float | None = None, log: bool = False) -> alt.X:
    """An x axis wide enough for `x`, `low` and `high` of all rows, and for the value `through`."""
    extent = [row[name] for row in rows for name in ("x", "low", "high") if is_number(row.get(name))]
    extent += [] if through is None else [through]
    low, high = min(extent), max(extent)
    if log:
        pad = 1.02 * (high / low) ** 0.06 if low < high else 1.3
        low, high = low / pad, high * pad
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=round_ticks(low, high), format="~g"))
    pad = 0.05 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))


def round_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis: 1, 2 and 5 times powers of ten, or evenly spaced ones if the axis is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = [round(tick, 10) for tick in ticks if low <= tick <= high]
    if len(ticks) >= 4 or high / low > 4:
        return ticks
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (1, 0.5, 0.2, 0.1) if (high - low) / (step * part) >= 3)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def vertical(height: int, field: str = "y:Q") -> alt.Y:
    """A y position in pixels from the top."""
    return alt.Y(field, axis=None, scale=alt.Scale(domain=[height, 0], nice=False, zero=False))


def series(styles: Mapping[str, Style], *, legend: bool = False, shape: bool = True) -> dict[str, Any]:
    """Colour, and shape unless the mark has none, by the field `series`.

    Args:
        styles: Colour and shape by name.
        legend: Whether this mark is drawn in the legend.
        shape: False for marks without a shape: lines, bars, text.
    """
    names, (colours, shapes) = list(styles), zip(*styles.values(), strict=True)
    columns = max(1, min(len(names), 60 // (4 + max(map(len, names)))))
    key = alt.Legend(columns=columns, symbolType=alt.Undefined if shape else "square") if legend else None
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=names, range=list(colours)), legend=key)
    if not shape:
        return {"color": colour}
    return {
        "color": colour,
        "shape": alt.Shape("series:N", title=None, scale=alt.Scale(domain=names, range=list(shapes)), legend=key),
    }


def names(rows: Rows, values: Sequence[str] = ()) -> list[alt.Chart]:
    """The names of rows and the numbers to their right, with a hairline between rows."""
    values = values or [""] * len(rows.names)
    heads = [
        {"label": name, "value": value.replace("-", "\u2212"), "y": top}
        for name, value, top in zip(rows.names, values, rows.tops, strict=True)
    ]
    base = alt.Chart(data(heads)).encode(y=vertical(rows.height))
    between = alt.Chart(data(heads[1:])).mark_rule(strokeOpacity=0.12, color=TEXT, yOffset=-4, aria=False)
    return [
        between.encode(y=vertical(rows.height)),
        base.mark_text(align="left", lineBreak="\n", baseline="top", aria=False).encode(x=alt.value(0), text="label:N"),
        base.mark_text(align="right", baseline="top", aria=False).encode(x=alt.value("width"), text="value:N"),
    ]


def dots(rows: Sequence[Row], x: alt.X, height: int, styles: Mapping[str, Style]) -> alt.Chart:
    """Small circles, one per run."""
    base = alt.Chart(data(rows)).mark_point(filled=True, shape="circle", size=34, opacity=0.6)
    return base.encode(x=x, y=vertical(height), **series(styles, shape=False), **DESCRIBED)


def intervals(
    rows: Sequence[Row], x: alt.X, height: int, styles: Mapping[str, Style], *, legend: bool = False
) -> list[alt.Chart]:
    """Estimates with their intervals: `x`, `low`, `high`, `y`, `series`, `text`."""
    base = alt.Chart(data(rows))
    rule, colours = base.mark_rule(strokeWidth=1.5, aria=False), series(styles, legend=legend, shape=False)
    point = base.mark_point(filled=True, size=60, opacity=1)
    return [
        rule.encode(x=alt.X("low:Q", title=""), x2="high:Q", y=vertical(height), **colours),
        point.encode(x=x, y=vertical(height), **series(styles, legend=legend), **DESCRIBED),
    ]


def line_at(value: float, x: alt.X) -> alt.Chart:
    """A vertical line at the value of no difference."""
    rule = alt.Chart(data([{"x": value}])).mark_rule(strokeDash=[3, 3], strokeOpacity=0.7, color=TEXT, aria=False)
    return rule.encode(x=x)


def finish(title: str, layers: Sequence[alt.Chart], height: int, width: int = WIDTH) -> alt.LayerChart:
    """Layers as one chart in the common look."""
    return alt.layer(*layers).properties(title=title, width=width, height=height).configure(**CONFIG)


def beside(charts: Sequence[alt.LayerChart], title: str = "", columns: int | None = None) -> alt.ConcatChart:
    """Charts as panels of one chart, from left to right.

    Args:
        charts: The panels.
        title: Title above all of them.
        columns: Panels in a row; None = all.
    """
    panels = [chart.copy(deep=False) for chart in charts]
    for panel in panels:
        panel.config = alt.Undefined
    chart = alt.concat(*panels, columns=columns or len(panels), spacing=36)
    chart = chart.resolve_scale(color="independent", shape="independent")
    heading = alt.TitleParams(title, fontSize=15, offset=18)
    return (chart.properties(title=heading) if title else chart).configure(**CONFIG)

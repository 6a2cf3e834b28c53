"""Accuracy over a cost, on a log scale: of a study's cells, or of networks by their family."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import altair as alt
import pandas as pd

from mnet.studies.report.charts.colours import NETWORKS, TEXT, Style, colour
from mnet.studies.report.charts.marks import DESCRIBED, data, finish, series, x_axis
from mnet.studies.results.table_view import Row, format_interval, is_number, rows_of
from mnet.tasks import metric_of

HEIGHT = 300
MADDS_TITLE = "multiply-adds (millions, log scale)"


def scatter_chart(
    title: str,
    points: Sequence[Row],
    x_title: str,
    y_title: str,
    styles: Mapping[str, Style],
    *,
    lines: Sequence[Sequence[Row]] = (),
    through: float | None = None,
    log: bool = True,
    extent: Iterable[float] = (),
) -> alt.LayerChart:
    """Points, with intervals if they have some, and lines between them.

    Args:
        title: Title of the chart.
        points: `x`, `y`, `series`, `text`; optionally the intervals `low` to `high` of y and `left` to `right` of x,
            a short `label`, and `opacity`.
        x_title: Title of the x axis, with unit.
        y_title: Title of the y axis, with unit.
        styles: Colour and shape of each series.
        lines: Points that are joined, with `x` and `y`.
        through: A value that the x axis must show.
        log: Whether the x axis is logarithmic.
        extent: Values that the y axis must show.
    """
    widths = [{"x": row["x"], "low": row.get("left"), "high": row.get("right")} for row in points]
    x = x_axis(x_title, widths, through=through, log=log)
    shown = [float(row[name]) for row in points for name in ("y", "low", "high") if is_number(row.get(name))]
    shown += extent
    pad = 0.06 * (max(shown) - min(shown)) or 1.0
    scale = alt.Scale(domain=[min(shown) - pad, max(shown) + pad], nice=False, zero=False)
    y = alt.Y("y:Q", title=y_title, scale=scale, axis=alt.Axis(tickCount=6))
    base = alt.Chart(data({"opacity": 0.9, "label": "", **point} for point in points))
    layers = []
    for line in lines:
        drawn = alt.Chart(data(line)).mark_line(strokeWidth=1, strokeOpacity=0.4, color=TEXT, aria=False)
        layers.append(drawn.encode(x=x, y=y, order="x:Q"))
    rule, colours = base.mark_rule(strokeOpacity=0.5, aria=False), series(styles, legend=True, shape=False)
    if any(is_number(row.get("low")) for row in points):
        layers.append(rule.encode(x=x, y=alt.Y("low:Q", title=y_title), y2="high:Q", **colours))
    if any(is_number(row.get("left")) for row in points):
        layers.append(rule.encode(x=alt.X("left:Q", title=x_title), x2="right:Q", y=y, **colours))
    opacity = alt.Opacity("opacity:Q", scale=None, legend=None)
    point = base.mark_point(filled=True, size=55)
    layers.append(point.encode(x=x, y=y, opacity=opacity, **series(styles, legend=True), **DESCRIBED))
    if any(row.get("label") for row in points):
        text = base.mark_text(dx=7, dy=-7, align="left", fontSize=10, aria=False)
        layers.append(text.encode(x=x, y=y, text="label:N"))
    return finish(title, layers, HEIGHT)


def cells_chart(
    cells: pd.DataFrame, title: str, column: str, x_title: str, through: float | None = None
) -> alt.LayerChart:
    """The headline metric of a study's cells over a cost. Cells are numbered as in the legend; a line joins those that
    no other beats at less cost.

    Args:
        cells: One row per cell with a result: the columns of `summary.csv`, or of `frontier.csv` on one runtime.
        title: Title of the chart.
        column: `madds`, drawn in millions, or `ratio`, the ratio of latencies.
        x_title: Title of the x axis, with unit.
        through: A value that the x axis must show.
    """
    points, styles, metric = [], {}, metric_of(cells)
    for i, row in enumerate(rows_of(cells), 1):
        name, half, mean = f"{i}  {row['cell']}", row[metric.half_width], row[metric.mean]
        half = half if is_number(half) else math.nan
        text = f"{row['cell']}: {mean:.2f}%, mean of {row['n']:.0f} seeds"
        text += f" {format_interval(mean - half, mean + half)}; " if is_number(half) else "; "
        text += f"{row['params'] / 1e6:.3f} M parameters, {row['madds'] / 1e6:.2f} M multiply-adds"
        point = {"x": row[column] / 1e6 if column == "madds" else row[column], "y": mean}
        point |= {"low": mean - half, "high": mean + half}
        if column == "ratio":
            point |= {"left": row["ratio_low"], "right": row["ratio_high"]}
            limits = format_interval(row["ratio_low"], row["ratio_high"], 3)
            text += f"; on {row['runtime']} {row['ratio']:.3f} {limits} times the baseline's latency, "
            text += f"{row['median_ms']:.3f} ms; {row['device']}"
        points.append({**point, "series": name, "text": text, "label": str(i)})
        styles[name] = colour(str(row["cell"])), "circle"
    y_title = f"test {metric.label} (%), mean and 95% t interval"
    return scatter_chart(title, points, x_title, y_title, styles, lines=[undominated(points)], through=through)


def networks_chart(points: Sequence[Row], title: str, x_title: str, label: str) -> alt.LayerChart | None:
    """Networks by family; a line joins those that no other beats at less cost.

    Args:
        points: `x`, `y` in percent, `network` (one of `NETWORKS`), `text`.
        title: Title of the chart.
        x_title: Title of the x axis, with unit.
        label: Name of the metric on y.

    Returns:
        None if there are no points.
    """
    if not points:
        return None
    drawn = [{**point, "series": point["network"]} for point in points]
    lines = [undominated(points)]
    return scatter_chart(title, drawn, x_title, f"{label} (%)", network_styles(drawn), lines=lines)


def network_styles(points: Sequence[Row]) -> dict[str, Style]:
    """The entries of `NETWORKS` that are drawn."""
    drawn = {str(point["series"]) for point in points}
    return {name: style for name, style in NETWORKS.items() if name in drawn}


def undominated(points: Sequence[Row]) -> list[Row]:
    """The points that no other beats at less cost, from cheap to costly."""
    best: list[Row] = []
    for point in sorted(points, key=lambda point: (point["x"], -point["y"])):
        if not best or point["y"] > best[-1]["y"]:
            best.append(point)
    return best

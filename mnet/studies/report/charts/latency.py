"""The charts of latency: ratios to the baseline, accuracy over latency, and the cost of each block."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import pandas as pd

from mnet.studies.report.charts.colours import COSTS, GREY, RUNTIMES, TEXT
from mnet.studies.report.charts.marks import (
    DESCRIBED,
    LANE,
    beside,
    data,
    ends,
    finish,
    intervals,
    lay_out,
    line_at,
    names,
    series,
    vertical,
    x_axis,
)
from mnet.studies.report.charts.scatter import cells_chart
from mnet.studies.results.archive import of_latest_machine
from mnet.studies.results.table_view import format_interval, rows_of

RATIO_TITLE = ["latency over that of the first row (log scale)", "paired rounds, 95% interval"]
TOGETHER = ("runtime", "threads", "batch", "device")
"""Latencies are compared only if all of these agree."""


def latency_chart(
    latency: pd.DataFrame, title: str = "Latency as a ratio to the baseline, by runtime"
) -> alt.LayerChart | None:
    """The ratio of every variant to the first on each runtime, with its interval and a line at 1.

    Args:
        latency: Rows of `latency.csv`.
        title: Title of the chart.

    Returns:
        None if no ratio was measured.
    """
    latency = of_latest_machine(latency)
    shown = latency[pd.to_numeric(latency["ratio"], errors="coerce").notna()]
    if shown.empty:
        return None
    variants = list(dict.fromkeys(map(str, shown["variant"])))
    runtimes = list(dict.fromkeys(map(str, shown["runtime"])))
    styles = {name: RUNTIMES.get(name, (GREY, "circle")) for name in runtimes}
    rows, ratios = lay_out(variants, len(runtimes)), []
    for row in rows_of(shown):
        variant, runtime = str(row["variant"]), str(row["runtime"])
        text = f"{variant} on {runtime} {row.get('version', '')}: ratio {row['ratio']:.3f} "
        text += f"{format_interval(row['low'], row['high'], 3)}, {row['median_ms']:.3f} ms"
        details = ("threads", "resolution", "kernels", "rounds", "device")
        text += "\n" + ", ".join(f"{name} {row[name]}" for name in details if name in row)
        y = rows.marks[variants.index(variant)] + LANE * runtimes.index(runtime)
        label = f"{row['ratio']:.3f}" if row["low"] != row["high"] else ""  # no label for the baseline
        limits = ends(row["ratio"], row["low"], row["high"])
        ratios.append({"x": row["ratio"], **limits, "y": y, "series": runtime, "text": text, "label": label})
    x = x_axis(RATIO_TITLE, ratios, through=1, log=True)
    text = alt.Chart(data(ratios)).mark_text(align="left", dx=6, fontSize=9, aria=False)
    labels = text.encode(x=alt.X("high:Q"), y=vertical(rows.height), text="label:N")
    points = intervals(ratios, x, rows.height, styles, legend=True)
    return finish(title, [*names(rows), line_at(1, x), *points, labels], rows.height)


def frontier_charts(frontier: pd.DataFrame) -> Iterator[alt.LayerChart]:
    """Accuracy over latency, both with 95% intervals; one chart per group of cells timed together.

    Args:
        frontier: Rows of `frontier.csv`.
    """
    for _, cells in frontier.groupby([name for name in TOGETHER if name in frontier], sort=False):
        yield cells_chart(cells, str(cells["runtime"].iloc[0]), "ratio", "latency over the first's (log scale)", 1)


def frontier_chart(frontier: pd.DataFrame, title: str) -> alt.ConcatChart:
    """`frontier_charts` side by side."""
    return beside(list(frontier_charts(frontier)), title)


def blocks_chart(blocks: pd.DataFrame, title: str = "Cost by block") -> alt.LayerChart:
    """The share of every block in multiply-adds, parameters and, if it was timed, latency.

    Args:
        blocks: `block, kind, resolution, params, madds`, in the order of execution; `ms, low, high, undelegated` if
            they were timed.
        title: Title of the chart.
    """
    measures = {"multiply-adds": "madds", "parameters": "params"}
    if "ms" in blocks:
        measures = {"latency": "ms", **measures}
    bars, timed, height = [], [], 9 * len(measures) + 9
    for i, row in enumerate(rows_of(blocks)):
        for k, (measure, column) in enumerate(measures.items()):
            share = 100 * row[column] / blocks[column].sum()
            amount = f"{row[column]:.3f} ms" if column == "ms" else f"{row[column]:,}"
            text = f"{row['block']}, {row['kind']}, {row['resolution']} px: {amount}, {share:.1f}% of all {measure}"
            y = height * i + 6 + 9 * k
            bars.append({"x": share, "y": y, "y2": y + 7, "series": measure, "text": text})
            if column == "ms":
                limits = {name: 100 * row[name] / blocks["ms"].sum() for name in ("low", "high")}
                fallen = f", {row['undelegated']} not delegated" if row.get("undelegated") else ""
                timed.append({"x": share, **limits, "y": y + 3.5, "label": f"{row['ms']:.2f} ms{fallen}"})
    total = height * len(blocks) + 2
    labels = [
        {"y": height * i + height // 2, "label": f"{str(row['block']).removeprefix('blocks.')} · {row['kind']}"}
        for i, row in enumerate(rows_of(blocks))
    ]
    furthest = max(row.get("high", row["x"]) for row in [*bars, *timed])
    room = 1.2 if timed else 1.04  # for the milliseconds next to the bars
    scale = alt.Scale(domain=[0, room * furthest], nice=False)
    interval = "; line: 95% interval of the latency" if timed else ""
    x = alt.X("x:Q", title=f"share of the network (%){interval}", scale=scale, axis=alt.Axis(tickCount=6))
    side = alt.Chart(data(labels)).mark_text(align="right", baseline="middle", dx=-8, aria=False, clip=False)
    bar = alt.Chart(data(bars)).mark_bar()
    styles = {name: COSTS[name] for name in measures}
    colours = series(styles, legend=True, shape=False)
    layers = [
        side.encode(x=alt.value(0), y=vertical(total), text="label:N"),
        bar.encode(x=x, x2=alt.value(0), y=vertical(total), y2="y2:Q", **colours, **DESCRIBED),
    ]
    if timed:
        base = alt.Chart(data(timed))
        rule = base.mark_rule(aria=False, color=TEXT)
        layers.append(rule.encode(x=alt.X("low:Q", title=""), x2="high:Q", y=vertical(total)))
        text = base.mark_text(align="left", baseline="middle", dx=4, fontSize=9, aria=False)
        layers.append(text.encode(x=alt.X("high:Q", title=""), y=vertical(total), text="label:N"))
    return finish(title, layers, total)

"""The charts of the report, as Vega-Lite specifications that Altair builds.

Nothing of the data reaches a name or an expression: it stays in fields that are named here, as text. Ink that is the
page's own (`currentColor`) follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from mnet.latency.plots import COLOURS as RUNTIME_INKS
from mnet.studies.claims.papers import COLOURS as NETWORK_INKS
from mnet.studies.report.commands import told
from mnet.studies.report.marks import (
    INK,
    INKED,
    LANE,
    SHAPED,
    TOLD,
    Spec,
    axis,
    dots_of,
    ends_of,
    finish,
    frame,
    head,
    intervals,
    lay_out,
    line_at,
    names,
    vertical,
)
from mnet.studies.report.tables import VERDICT_WORDS
from mnet.studies.results.archive import is_known
from mnet.studies.results.plots import SPARE, colour
from mnet.studies.results.table_view import Row, format_interval, format_number, is_number, rows_of
from mnet.tasks import metric_of

SOURCES = {
    "slim_v1": "TensorFlow-Slim, MobileNet V1",
    "slim_v2": "TensorFlow-Slim, MobileNet V2",
    "v3_table9": "V3 paper, appendix",
    "v3_table6": "V3 paper, table 6",
}
MEASURES = {"top1": "ImageNet top-1", "map": "COCO mAP"}
"""What the papers' points are in percent of, by the metric that ours are compared by."""
Legend = Sequence[tuple[str, str, str]]
"""Ink, glyph and name."""

SHAPES = {"circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆", "cross": "✚", "triangle-down": "▼"}
FAMILIES = {
    "mobilenet_v1": "V1",
    "mobilenet_v2": "V2",
    "mobilenet_v3_large": "V3-Large",
    "mobilenet_v3_small": "V3-Small",
}
SHARES = {"latency": "#D55E00", "multiply-adds": "#0072B2", "parameters": "#E69F00"}


@dataclass(frozen=True)
class Chart:
    """A panel of a figure; its legend is written in HTML, where it wraps."""

    title: str
    spec: Spec
    legend: Legend = ()


def opening(words: str) -> str:
    """At the beginning of a line."""
    return words[0].upper() + words[1:] if words[1:2].islower() else words


def on_page(ink: str) -> str:
    """A colour of the other figures; the page's own ink where that is black."""
    return INK if ink == "#000000" else ink


def shade(cell: str) -> str:
    """A cell's colour."""
    return on_page(colour(cell))


RUNTIMES = {name: (on_page(ink), shape) for (name, ink), shape in zip(RUNTIME_INKS.items(), SHAPES, strict=True)}
NETWORKS = {
    FAMILIES[model]: (on_page(ink), shape) for (model, ink), shape in zip(NETWORK_INKS.items(), SHAPES, strict=False)
} | {"others": ("#009E73", "cross")}
"""Ink and shape of each."""


def conditions(row: Row) -> str:
    """What a mark says of its run, beside the number."""
    settings = ", ".join(f"{name}={value}" for name, value in told(row).items())
    ran = ", ".join(
        f"{name} {row[name]}" for name in ("device", "threads", "torch") if name in row and is_known(row[name])
    )
    return f"{settings}\nrun {row['run_id']}; {ran}"


def accuracy_chart(summary: pd.DataFrame, runs: pd.DataFrame) -> Chart:
    """Top-1, or what else the task compares, of every seed, the mean and its 95% interval, a row a cell."""
    metric = metric_of(summary)
    cells = rows_of(summary[summary["n"] > 0])
    rows = lay_out([str(cell["cell"]) for cell in cells])
    heads, means, dots = [], [], []
    for i, cell in enumerate(cells):
        ink, y, half = shade(str(cell["cell"])), rows.marks[i], cell[metric.half_width]
        mean = cell[metric.mean]
        ends = ends_of(mean, mean - half, mean + half) if is_number(half) else ends_of(mean)
        said = f"{cell['cell']}: mean {mean:.2f}% of {cell['n']:.0f} seeds"
        said += f", 95% interval {format_interval(ends['low'], ends['high'])}" if is_number(half) else ""
        means.append({"x": mean, **ends, "y": y, "ink": ink, "told": said})
        heads.append(head(rows, i, f"{mean:.2f}"))
        own = rows_of(runs[runs["cell"] == cell["cell"]])
        for k, run in enumerate(own):
            shift = -5 + 10 * k / max(1, len(own) - 1)
            said = f"{run['cell']}, seed {run['seed']}: {run[metric.name]:.2f}%\n{conditions(run)}"
            dots.append({"x": run[metric.name], "y": y + shift, "ink": ink, "told": said})
    x = axis(f"test {metric.label} (%)", [*means, *dots])
    lines, diamonds = intervals(means, x, rows.height)
    marks = [lines, dots_of(dots, x, rows.height), diamonds]
    return Chart(f"{opening(metric.label)} by seed", finish([*names(heads, rows), *marks], rows.height))


def difference_chart(summary: pd.DataFrame) -> Chart | None:
    """The difference of every cell to the first, paired by seed, with its interval."""
    cells = rows_of(summary[summary["n"] > 0])
    if not any(is_number(cell["delta"]) for cell in cells):
        return None
    rows = lay_out([str(cell["cell"]) for cell in cells])
    heads, means = [], []
    for i, cell in enumerate(cells):
        if not is_number(cell["delta"]):
            heads.append(head(rows, i, "" if i else "baseline"))
            continue
        means.append(difference(cell, f"{cell['cell']} against {cells[0]['cell']}", rows.marks[i], shade(cell["cell"])))
        heads.append(head(rows, i, format_number(cell["delta"], sign=True)))
    x = axis(f"difference to the first row (points of {metric_of(summary).label})", means, through=0)
    layers = [*names(heads, rows), line_at(0, x, rows.height), *intervals(means, x, rows.height)]
    return Chart("Difference to the baseline", finish(layers, rows.height))


def effects_chart(effects: pd.DataFrame) -> Chart:
    """Within each network, every value against the first."""
    first = effects["against"].iloc[0]
    shown = effects[effects["against"] == first]
    variants, values = (list(dict.fromkeys(map(str, shown[name]))) for name in ("variant", "value"))
    rows, means = lay_out(variants, len(values)), []
    inks = {value: (SPARE[(2 * i + 2) % len(SPARE)], list(SHAPES)[i % len(SHAPES)]) for i, value in enumerate(values)}
    for row in rows_of(shown):
        lane = values.index(str(row["value"]))
        y = rows.marks[variants.index(str(row["variant"]))] + LANE * lane
        ink, shape = inks[str(row["value"])]
        said = f"{row['variant']}: {row['value']} against {first}"
        means.append(difference(row, said, y, ink) | {"shape": shape})
    heads = [head(rows, i, "") for i in range(len(variants))]
    x = axis(f"top-1 minus that of {first} (points)", means, through=0)
    layers = [*names(heads, rows), line_at(0, x, rows.height), *intervals(means, x, rows.height)]
    legend = [(ink, SHAPES[shape], value) for value, (ink, shape) in inks.items()]
    return Chart(f"Within each network, the difference to {first}", finish(layers, rows.height), legend)


def difference(row: Row, what: str, y: float, ink: str) -> dict[str, Any]:
    said = f"{what}: {format_number(row['delta'], sign=True)} points"
    if is_number(row["low"]):
        said += f", 95% interval {format_interval(row['low'], row['high'], sign=True)}: "
        said += VERDICT_WORDS.get(str(row["verdict"]), "")
    return {"x": row["delta"], **ends_of(row["delta"], row["low"], row["high"]), "y": y, "ink": ink, "told": said}


def latency_chart(latency: pd.DataFrame) -> Chart | None:
    """The ratio of every variant to the first on each runtime, with its interval and a line at 1."""
    shown = latency[latency["ratio"].notna()]
    if shown.empty:
        return None
    variants = list(dict.fromkeys(map(str, shown["variant"])))
    runtimes = list(dict.fromkeys(map(str, shown["runtime"])))
    rows, means = lay_out(variants, len(runtimes)), []
    for row in rows_of(shown):
        ink, shape = RUNTIMES.get(str(row["runtime"]), (INK, "circle"))
        y = rows.marks[variants.index(str(row["variant"]))] + LANE * runtimes.index(str(row["runtime"]))
        said = f"{row['variant']} on {row['runtime']} {row['version']}, {row['threads']} threads: ratio "
        said += f"{row['ratio']:.3f} {format_interval(row['low'], row['high'], 3)}, {row['median_ms']:.3f} ms at "
        said += f"{row['resolution']} px\n{row['kernels']}, {row['rounds']} rounds; {row['device']}"
        ends = ends_of(row["ratio"], row["low"], row["high"])
        means.append({"x": row["ratio"], **ends, "y": y, "ink": ink, "shape": shape, "told": said})
    x = axis("latency over that of the first row (log scale)", means, through=1, log=True)
    heads = [head(rows, i, "") for i in range(len(variants))]
    layers = [*names(heads, rows), line_at(1, x, rows.height), *intervals(means, x, rows.height)]
    legend = [(ink, SHAPES[shape], name) for name, (ink, shape) in RUNTIMES.items() if name in runtimes]
    return Chart("Latency as a ratio to the baseline, by runtime", finish(layers, rows.height), legend)


def blocks_chart(blocks: pd.DataFrame) -> Chart:
    """The share of every block in parameters, multiply-adds and, where it was timed, latency.

    Args:
        blocks: `block, kind, resolution, params, madds`, in the order of execution; `ms, low, high` if timed.
    """
    measures = {"multiply-adds": "madds", "parameters": "params"}
    if "ms" in blocks:
        measures = {"latency": "ms", **measures}
    bars, errors, height = [], [], 9 * len(measures) + 9
    for i, row in enumerate(rows_of(blocks)):
        for k, (measure, column) in enumerate(measures.items()):
            share = 100 * row[column] / blocks[column].sum()
            amount = f"{row[column]:.3f} ms" if column == "ms" else f"{row[column]:,}"
            said = f"{row['block']}, {row['kind']}, {row['resolution']} px: {amount}, {share:.1f}% of all {measure}"
            y = height * i + 6 + 9 * k
            bars.append({"x": share, "y": y, "y2": y + 7, "ink": SHARES[measure], "told": said})
            if column == "ms":
                ends = {name: 100 * row[name] / blocks["ms"].sum() for name in ("low", "high")}
                errors.append({"x": share, **ends, "y": y + 3.5, "ink": INK})
    total = height * len(blocks) + 2
    ticks = [height * i + height // 2 for i in range(len(blocks))]
    labels = [f"{str(row['block']).removeprefix('blocks.')} · {row['kind']}" for row in rows_of(blocks)]
    furthest = max(row.get("high", row["x"]) for row in [*bars, *errors])
    x = alt.X(
        "x:Q",
        title="share of the network (%)",
        scale=alt.Scale(domain=[0, 1.04 * furthest], nice=False),
        axis=alt.Axis(tickCount=6),
    )
    names_ = alt.Chart(frame({"y": y, "label": label} for y, label in zip(ticks, labels, strict=True)))
    side = names_.mark_text(align="right", baseline="middle", dx=-8, aria=False, clip=False).encode(
        x=alt.value(0), y=vertical(total), text="label:N"
    )
    bar = (
        alt.Chart(frame(bars))
        .mark_bar()
        .encode(x=x, x2=alt.value(0), y=vertical(total), y2="y2:Q", color=INKED, **TOLD)
    )
    layers = [side, bar]
    if errors:
        rule = alt.Chart(frame(errors)).mark_rule(aria=False)
        layers.append(rule.encode(x=alt.X("low:Q", title=""), x2="high:Q", y=vertical(total), color=INKED))
    return Chart("Cost by block", finish(layers, total), [(SHARES[name], "■", name) for name in measures])


def scatter_chart(
    title: str,
    points: Sequence[Row],
    x_title: str,
    legend: Legend,
    *,
    through: float | None = None,
    path: bool = True,
    label: str = "top-1",
) -> Chart | None:
    """Accuracy over a cost, log scale; a line through the points that no other beats.

    Args:
        title: What is drawn.
        points: `x`, `y` in percent, `ink`, `told`, `shape`; if there are, `low` and `high` of y, `left` and `right`
            of x, and a short `label`.
        x_title: With unit.
        legend: Of the inks.
        through: A value that the x axis shows.
        path: Whether to draw the line.
        label: What y is, in percent.
    """
    if not points:
        return None
    height = 300
    widths = [{"x": row["x"], "low": row.get("left"), "high": row.get("right")} for row in points]
    x = axis(x_title, widths, through=through, log=True)
    extent = [float(row[name]) for row in points for name in ("y", "low", "high") if is_number(row.get(name))]
    pad = 0.06 * (max(extent) - min(extent)) or 1.0
    scale = alt.Scale(domain=[min(extent) - pad, max(extent) + pad], nice=False, zero=False)
    y = alt.Y("y:Q", title=f"{label} (%)", scale=scale, axis=alt.Axis(tickCount=6))
    base = alt.Chart(frame(points))
    layers = []
    if path and len(best := undominated(points)) > 1:
        line = alt.Chart(frame(best)).mark_line(strokeWidth=1, strokeOpacity=0.4, color=INK, aria=False)
        layers.append(line.encode(x=x, y=y))
    if any(is_number(row.get("low")) for row in points):
        rule = base.mark_rule(strokeOpacity=0.5, aria=False)
        layers.append(rule.encode(x=x, y=alt.Y("low:Q", title=f"{label} (%)"), y2="high:Q", color=INKED))
    if any(is_number(row.get("left")) for row in points):
        rule = base.mark_rule(strokeOpacity=0.5, aria=False)
        layers.append(rule.encode(x=alt.X("left:Q", title=x_title), x2="right:Q", y=y, color=INKED))
    layers.append(base.mark_point(filled=True, size=55, opacity=0.9).encode(x=x, y=y, color=INKED, **SHAPED, **TOLD))
    if any(row.get("label") for row in points):
        named = base.mark_text(dx=7, dy=-7, align="left", fontSize=10, aria=False)
        layers.append(named.encode(x=x, y=y, text="label:N"))
    return Chart(title, finish(layers, height), legend)


TAKEN, OTHERS = "#D55E00", "#999999"


def trace_chart(trace: pd.DataFrame) -> Chart | None:
    """Every proposal of a search by its cost and its accuracy on validation, and those that were taken."""
    points = []
    for row in rows_of(trace.dropna(subset=["accuracy"]).sort_values("taken")):
        taken = bool(row["taken"])
        change = f"{row['before']:.0f} to {row['after']:.0f} channels" if is_number(row.get("before")) else "the seed"
        said = f"step {row['step']:.0f}, {row['space']}, {change}: {row['accuracy']:.2f}% at {row['cost']:.4f}"
        said += f"{', taken' if taken else ''}\nrun {row['run_id']}"
        mark = {"ink": TAKEN, "shape": "diamond"} if taken else {"ink": OTHERS, "shape": "circle"}
        points.append({"x": row["cost"], "y": row["accuracy"], **mark, "told": said})
    legend = [(TAKEN, SHAPES["diamond"], "taken"), (OTHERS, SHAPES["circle"], "proposed")]
    x_title = "cost, milliseconds or million multiply-adds (log scale)"
    return scatter_chart("The search", points, x_title, legend, path=False, label="validation top-1")


def candidates_chart(candidates: pd.DataFrame) -> Chart | None:
    """Candidates of a search over blocks by cost and accuracy; the seed, and the one of the highest reward."""
    points, best = [], candidates["reward"].idxmax()
    for i, row in candidates.dropna(subset=["accuracy"]).iterrows():
        own = "the seed" if i == 0 else "highest reward" if i == best else "candidates"
        said = f"generation {row['generation']:.0f}: {row['accuracy']:.2f}% at {row['cost']:.3f} of the seed's cost, "
        said += f"reward {row['reward']:.2f}\nrun {row['run_id']}"
        ink, shape = CANDIDATES[own]
        points.append({"x": row["cost"], "y": row["accuracy"], "ink": ink, "shape": shape, "told": said})
    legend = [(ink, SHAPES[shape], name) for name, (ink, shape) in CANDIDATES.items()]
    x_title = "cost over the seed's (log scale)"
    return scatter_chart("The search", points, x_title, legend, through=1, label="validation top-1")


CANDIDATES = {"candidates": (OTHERS, "circle"), "the seed": (INK, "square"), "highest reward": (TAKEN, "diamond")}
"""Ink and shape of each."""


def cells_scatter(cells: pd.DataFrame, title: str, x: str, x_title: str, through: float | None = None) -> Chart | None:
    """A study's cells: top-1, or what else the task compares, over multiply-adds in millions, or over a latency ratio;
    numbered, as a legend says."""
    points, legend, metric = [], [], metric_of(cells)
    for i, row in enumerate(rows_of(cells), 1):
        name, half = str(row["cell"]), row[metric.half_width]
        half = half if is_number(half) else math.nan
        cost = row[x] / 1e6 if x == "madds" else row[x]
        said = f"{name}: {row[metric.mean]:.2f}%, mean of {row['n']:.0f} seeds"
        said += f" {format_interval(row[metric.mean] - half, row[metric.mean] + half)}; " if is_number(half) else "; "
        said += f"{row['params'] / 1e6:.3f} M parameters, {row['madds'] / 1e6:.2f} M multiply-adds"
        ink = shade(name)
        point = {"x": cost, "y": row[metric.mean], "low": row[metric.mean] - half, "high": row[metric.mean] + half}
        if x == "ratio":
            point |= {"left": row["ratio_low"], "right": row["ratio_high"]}
            said += f"; on {row['runtime']} {row['ratio']:.3f} "
            said += f"{format_interval(row['ratio_low'], row['ratio_high'], 3)} times"
            said += f" the baseline's, {row['median_ms']:.3f} ms; {row['device']}"
        points.append({**point, "ink": ink, "told": said, "label": str(i), "shape": "circle"})
        legend.append((ink, str(i), name))
    return scatter_chart(title, points, x_title, legend, through=through, label=metric.label)


def networks_scatter(
    points: Sequence[Row], title: str, x_title: str, *, path: bool = True, label: str = "top-1"
) -> Chart | None:
    """Points that have a `network`, one of `NETWORKS`, coloured by it."""
    drawn = [
        {**point, "ink": NETWORKS[str(point["network"])][0], "shape": NETWORKS[str(point["network"])][1]}
        for point in points
    ]
    there = {str(point["network"]) for point in points}
    legend = [(ink, SHAPES[shape], name) for name, (ink, shape) in NETWORKS.items() if name in there]
    return scatter_chart(title, drawn, x_title, legend, path=path, label=label)


def paper_points(published: pd.DataFrame) -> list[Row]:
    """The papers' networks, of `papers.published_points` and `published_detectors`, as `network`, `y` in percent of its
    `measure` (`metric` is ours), `madds` in millions, `ms` on a Pixel 1 or None, `told`."""
    found: list[Row] = []
    for row in rows_of(published):
        metric = next(name for name in MEASURES if is_number(row.get(name)))
        network = FAMILIES[str(row["model"])]
        tail = ", reduced tail" if row.get("reduced_tail") is True else ""
        name = f"{network}, width {row['width']:g}, {row['resolution']} px{tail}"
        ms = row["pixel1_ms"] if is_number(row["pixel1_ms"]) else None
        told = f"{name}: {row[metric]}% {MEASURES[metric]}, {row['madds_millions']:g} M multiply-adds, "
        told += f"{row['params_millions']} M parameters" + (f", {ms} ms on a Pixel 1" if ms is not None else "")
        source = SOURCES[str(row["source"])]
        point = {"network": network, "name": name, "y": row[metric], "madds": row["madds_millions"], "ms": ms}
        point |= {"metric": metric, "measure": MEASURES[metric]}
        found.append({**point, "params": row["params_millions"], "source": source, "told": f"{told}\n{source}"})
    return found


def undominated(points: Sequence[Row]) -> list[Row]:
    """Those than which no other is both cheaper and better, from cheap to costly."""
    best: list[Row] = []
    for point in sorted(points, key=lambda point: (point["x"], -point["y"])):
        if not best or point["y"] > best[-1]["y"]:
            best.append(point)
    return best

"""Charts of the networks of the family: their rows, where their cost lies, and how toggles change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import altair as alt
import pandas as pd

from mnet.models.cost import Cost, cost
from mnet.models.overview import COSTS
from mnet.models.parts import part_name
from mnet.models.spec import Network
from mnet.studies.report.charts.colours import ACTIVATIONS, BLUE, GREEN, LAYER_KINDS, ORANGE, TEXT, enumerated
from mnet.studies.report.charts.marks import DESCRIBED, WIDTH, beside, data, finish, line_at, series, x_axis
from mnet.studies.results.table_view import rows_of

ON_COLOUR = "#1c1d20"
"""Text on a light colour, also on a dark page."""
NO_CHANGE = 0.05
"""Percent; a smaller change is shown as 0."""


def toggle_costs_chart(costs: pd.DataFrame, title: str) -> alt.ConcatChart:
    """How each toggle changes the cost, one row per value that changes anything.

    Args:
        costs: From `toggle_costs`.
        title: Title above all panels.
    """
    shown = costs[(costs[list(COSTS)].abs() > NO_CHANGE).any(axis=1)]
    panels = []
    for i, ((column, label), colour) in enumerate(zip(COSTS.items(), (BLUE, ORANGE, GREEN), strict=True)):
        rows = []
        for row in rows_of(shown):
            name, percent = f"{row['toggle']} = {row['value']}", row[column]
            text = "0" if abs(percent) <= NO_CHANGE else f"{percent:+.{0 if percent >= 100 else 1}f}%"
            rows.append({"name": name, "x": 1 + percent / 100, "label": text, "text": f"{name}: {label} {text}"})
        x = x_axis(f"{label}, times the paper's", [*rows, {"x": 0.3}, {"x": 4}], through=1, log=True)
        axis = alt.Axis(labelLimit=0) if i == 0 else alt.Axis(labels=False)
        base = alt.Chart(data(rows)).encode(x=x, y=alt.Y("name:N", title=None, sort=None, axis=axis))
        above, below = alt.datum.x >= 1, alt.datum.x < 1
        layers = [
            base.mark_bar(color=colour).encode(x2=alt.datum(1), **DESCRIBED),
            base.mark_text(align="left", dx=3, fontSize=9, aria=False).transform_filter(above).encode(text="label:N"),
            base.mark_text(align="right", dx=-3, fontSize=9, aria=False).transform_filter(below).encode(text="label:N"),
            line_at(1, x),
        ]
        panels.append(finish("", layers, 17 * len(rows), WIDTH - 160))
    return beside(panels, title)


def kinds_chart(networks: Mapping[str, Network], title: str, resolution: int = 224) -> alt.ConcatChart:
    """Parameters and multiply-adds by kind of layer, one bar per network.

    Args:
        networks: Networks by name.
        title: Title above both panels.
        resolution: Height and width of the images, in pixels.
    """
    costs = {name: cost(network, resolution) for name, network in networks.items()}
    drawn = {row.kind for network_cost in costs.values() for row in network_cost.rows}
    styles = {kind: style for kind, style in LAYER_KINDS.items() if kind in drawn}
    panels = []
    for column, label in (("params", "parameters"), ("madds", "multiply-adds")):
        bars, totals = [], []
        for name, network_cost in costs.items():
            sums = network_cost.layers.groupby("kind")[column].sum()
            start = 0.0
            for kind in (kind for kind in styles if kind in sums):
                share = 100 * sums[kind] / sums.sum()
                text = f"{name}, {kind}: {sums[kind]:,} {label}, {share:.1f}%"
                bars.append({"name": name, "x": start, "end": start + share, "series": kind, "text": text})
                start += share
            total = sums.sum() / 1e6
            totals.append({"name": name, "x": 100, "label": f"{total:,.0f} M" if total >= 1000 else f"{total:.3g} M"})
        y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=0))
        scale, axis = alt.Scale(domain=[0, 118], nice=False), alt.Axis(values=[0, 25, 50, 75, 100])
        x = alt.X("x:Q", title=f"share of all {label} (%); total at the end", scale=scale, axis=axis)
        bar = alt.Chart(data(bars)).mark_bar()
        total = alt.Chart(data(totals)).mark_text(align="left", dx=4, fontSize=10, aria=False)
        layers = [
            bar.encode(x=x, x2="end:Q", y=y, **series(styles, legend=True, shape=False), **DESCRIBED),
            total.encode(x=x, y=y, text="label:N"),
        ]
        panels.append(finish("", layers, 28 * len(networks), WIDTH - 60))
    return beside(panels, title)


def depth_chart(networks: Mapping[str, Network], title: str, resolution: int = 224) -> alt.ConcatChart:
    """Where in the network the cost lies, from the stem to the classifier, one line per network.

    Args:
        networks: Networks by name, the baseline first.
        title: Title above all panels.
        resolution: Height and width of the images, in pixels.
    """
    units = {
        "params": (1e3, "parameters (thousands)"),
        "madds": (1e6, "multiply-adds (millions)"),
        "activation_bytes": (2**20, "activations alive (MiB, fp32)"),
    }
    costs = {name: _cost_by_part(cost(network, resolution)) for name, network in networks.items()}
    styles, parts = enumerated(list(networks)), list(max(costs.values(), key=len).index)
    panels = []
    for i, (column, (unit, label)) in enumerate(units.items()):
        rows = [
            {
                "part": str(part).removeprefix("blocks."),
                "y": value / unit,
                "series": name,
                "text": f"{name}, {part}: {value / unit:.3g}",
            }
            for name, frame in costs.items()
            for part, value in frame[column].items()
        ]
        order = [part.removeprefix("blocks.") for part in parts]
        x = alt.X("part:N", title="part of the network; numbers are blocks", sort=order, axis=alt.Axis(labelAngle=0))
        base = alt.Chart(data(rows)).encode(x=x, y=alt.Y("y:Q", title=label))
        lines = base.mark_line(strokeOpacity=0.6, aria=False).encode(**series(styles, legend=i == 0, shape=False))
        points = base.mark_point(filled=True, size=45).encode(**series(styles, legend=i == 0), **DESCRIBED)
        panels.append(finish("", [lines, points], 170, 2 * WIDTH))
    return beside(panels, title, columns=1)


def choices_chart(networks: Mapping[str, Network], title: str) -> alt.LayerChart:
    """What a count of multiply-adds does not show: the non-linearity, kernel and SE of every row, and whether a
    non-linearity follows its projection; one line per network.

    Args:
        networks: Networks by name.
        title: Title of the chart.
    """
    longest = max(len(network.blocks) for network in networks.values())
    order = ["stem", *map(str, range(longest)), "tail", "hidden"]
    rows = [
        {
            "name": name,
            "part": choice.part,
            "series": choice.activation,
            "label": f"{choice.kernel} SE" if choice.se else choice.kernel,
            "frame": TEXT if choice.bent else "transparent",
            "text": f"{name}, {choice.part}: {choice.activation}",
        }
        for name, network in networks.items()
        for choice in _choices(network)
    ]
    drawn = {row["series"] for row in rows}
    styles = {name: style for name, style in ACTIVATIONS.items() if name in drawn}
    x_title = "block, with its kernel (5+3: before and after the expansion) and SE; framed: a non-linear projection"
    x = alt.X("part:N", title=x_title, sort=order, axis=alt.Axis(labelAngle=0), scale=alt.Scale(padding=0.06))
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=0), scale=alt.Scale(padding=0.06))
    base = alt.Chart(data(rows)).encode(x=x, y=y)
    square = base.mark_rect(strokeWidth=1.5)
    fill = series(styles, legend=True, shape=False)["color"]
    text = base.mark_text(fontSize=10, color=ON_COLOUR, aria=False)
    layers = [
        square.encode(fill=fill, stroke=alt.Stroke("frame:N", scale=None), **DESCRIBED),
        text.encode(text="label:N"),
    ]
    return finish(title, layers, 36 * len(networks), 2 * WIDTH)


class _Choice(NamedTuple):
    part: str
    activation: str
    kernel: str = ""
    se: bool = False
    bent: bool = False
    """Whether a non-linearity follows the projection."""


def _choices(network: Network) -> list[_Choice]:
    """The choices of every row, from stem to classifier."""
    rows = [_Choice("stem", network.stem.activation, str(network.stem.kernel))]
    for i, row in enumerate(network.blocks):
        start = "" if row.start_kernel is None else f"{row.start_kernel}+"
        rows.append(_Choice(str(i), row.activation, f"{start}{row.kernel or ''}", bool(row.se), bool(row.projection)))
    if network.tail is not None:
        rows.append(_Choice("tail", network.tail.activation, str(network.tail.kernel)))
    if network.hidden is not None:
        rows.append(_Choice("hidden", network.hidden.activation))
    return rows


def _cost_by_part(network_cost: Cost) -> pd.DataFrame:
    """Parameters, multiply-adds and peak activation memory by part, in the order of execution."""
    layers = network_cost.layers
    columns = {"params": "sum", "madds": "sum", "activation_bytes": "max"}
    return layers.groupby(layers["layer"].map(part_name), sort=False).agg(columns)

"""Inside the networks: layer by layer, and during training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from mnet.models.diagnostics import spiral, through_relu
from mnet.studies.report.charts.colours import Style, cell_styles
from mnet.studies.report.charts.marks import DESCRIBED, WIDTH, beside, data, finish, series
from mnet.studies.results.diagnosis import EVERY, MEASURES
from mnet.studies.results.table_view import Row, rows_of

LAYER_TITLE = "layer, from the first to the last"


def inside_chart(table: pd.DataFrame, title: str) -> alt.ConcatChart:
    """Layers from first to last: one line per cell, the mean over its seeds; one panel for each of `MEASURES`.

    Args:
        table: Rows of `inside.csv`.
        title: Title above all panels.
    """
    rank_kept = table["rank_after"] / table["rank_before"]
    shown = table.assign(dead=100 * table["dead"], silent=100 * table["silent"], rank_kept=rank_kept)
    styles = cell_styles(table["cell"])
    n = table.groupby("cell")["seed"].nunique().max()
    panels: list[alt.LayerChart] = []
    for name, label in MEASURES.items():
        layers = shown.dropna(subset=[name]).groupby(["cell", "position", "layer"], sort=False)
        rows = [
            {"x": row["position"], "y": row[name], "series": str(row["cell"])}
            | {"text": f"{row['cell']}, {row['layer']}: {label} {row[name]:.3g}"}
            for row in rows_of(layers[name].mean().reset_index())
        ]
        panels.append(_lines(f"{label} (mean, n={n})", rows, LAYER_TITLE, styles, legend=not panels))
    return beside(panels, title)


def deaths_chart(deaths: pd.DataFrame, title: str) -> alt.ConcatChart:
    """Dead depthwise kernels, one line per cell: left during training, right layer by layer at the end.

    Args:
        deaths: Rows of `deaths.csv`.
        title: Title above both panels.
    """
    whole, layers = deaths[deaths["layer"] == EVERY], deaths[deaths["layer"] != EVERY]
    styles = cell_styles(whole["cell"])
    n = whole.groupby("cell")["seed"].nunique().max()
    through, at_end = [], []
    for cell, rows in whole.groupby("cell", sort=False):
        for step, shares in rows.groupby("step")["dead"]:
            text = f"{cell}, step {step}: {shares.mean():.2f}% ({shares.min():.2f} to {shares.max():.2f})"
            point = {"x": step, "y": shares.mean(), "low": shares.min(), "high": shares.max()}
            through.append({**point, "series": str(cell), "text": text})
        last = layers[(layers["cell"] == cell) & (layers["step"] == rows["step"].max())]
        for i, (layer, share) in enumerate(last.groupby("layer", sort=False)["dead"].mean().items(), 1):
            at_end.append({"x": i, "y": share, "series": str(cell), "text": f"{cell}, {layer}: {share:.2f}%"})
    left = f"dead kernels (%), mean and range of {n} seeds"
    right = "dead in the layer, at the end (%)"
    panels = [
        _lines(left, through, "training step", styles, legend=True),
        _lines(right, at_end, f"depthwise {LAYER_TITLE}", styles),
    ]
    return beside(panels, title)


def spiral_chart(dimensions: Sequence[int], seed: int = 0) -> alt.ConcatChart:
    """A spiral, and what is left of it after ReLU in each number of `dimensions`. Source: V2, figure 1."""
    curves = {"the spiral": spiral()}
    for embedding in through_relu(dimensions, seed):
        curves[f"{embedding.dimensions} dimensions, {embedding.lost:.0%} lost"] = embedding.back
    largest = max(float(curve.abs().max()) for curve in curves.values())
    scale = alt.Scale(domain=[-1.05 * largest, 1.05 * largest], nice=False)
    panels = []
    for name, curve in curves.items():
        points = [{"x": x, "y": y, "along": i} for i, (x, y) in enumerate(curve.tolist())]
        marks = alt.Chart(data(points)).mark_circle(size=10, opacity=1, aria=False)
        along = alt.Color("along:Q", scale=alt.Scale(scheme="viridis"), legend=None)
        x, y = alt.X("x:Q", axis=None, scale=scale), alt.Y("y:Q", axis=None, scale=scale)
        panels.append(finish(name, [marks.encode(x=x, y=y, color=along)], 170, 170))
    return beside(panels)


def _lines(
    y_title: str, rows: Iterable[Row], x_title: str, styles: dict[str, Style], *, legend: bool = False
) -> alt.LayerChart:
    """Lines with points, and the range `low` to `high` if rows have one."""
    rows = list(rows)
    base = alt.Chart(data(rows))
    scale: dict[str, Any] = {} if max((row["y"] for row in rows), default=0) > 1 else {"domainMax": 1}
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=True, **scale))
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False), axis=alt.Axis(tickMinStep=1, tickCount=6))
    colours = series(styles, legend=legend, shape=False)
    layers = [base.mark_line(strokeWidth=1.5, aria=False).encode(x=x, y=y, **colours)]
    if any("low" in row for row in rows):
        layers.append(base.mark_rule(strokeOpacity=0.5, aria=False).encode(x=x, y=y, **colours))
        layers[-1] = layers[-1].encode(y=alt.Y("low:Q", title=y_title), y2="high:Q")
    points = base.mark_point(filled=True, size=30, opacity=1)
    layers.append(points.encode(x=x, y=y, **series(styles, legend=legend), **DESCRIBED))
    return finish("", layers, 260, WIDTH - 60)

"""Charts of the papers' published networks, next to what we trained and timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from mnet.studies.claims.papers import OWN_RESOLUTION
from mnet.studies.report.charts.colours import MODELS
from mnet.studies.report.charts.marks import beside
from mnet.studies.report.charts.scatter import MADDS_TITLE, network_styles, scatter_chart
from mnet.studies.results.table_view import Row, is_number, rows_of

SOURCES = {
    "slim_v1": "TensorFlow-Slim, MobileNet V1",
    "slim_v2": "TensorFlow-Slim, MobileNet V2",
    "v3_table9": "V3 paper, appendix",
    "v3_table6": "V3 paper, table 6",
    "v4_table6": "V4 paper, table 6, costs in one or two digits",
}
MEASURES = {"top1": "ImageNet top-1", "map": "COCO mAP"}
"""Our metric -> the papers' measure that is shown next to it, in percent."""


def paper_points(published: pd.DataFrame) -> list[Row]:
    """The papers' networks as points.

    Args:
        published: From `papers.published_points`, `published_detectors` or both.

    Returns:
        `network`, `name`, `y` in percent of its `measure` (`metric`: our name), `madds` and `params` in millions, `ms`
        on a Pixel 1 or None, `resolution`, `source`, `text`.
    """
    points: list[Row] = []
    for row in rows_of(published):
        metric = next(name for name in MEASURES if is_number(row.get(name)))
        network = MODELS[str(row["model"])]
        tail = ", reduced tail" if row.get("reduced_tail") is True else ""
        name = f"{network}, width {row['width']:g}, {row['resolution']} px{tail}"
        ms = row["pixel1_ms"] if is_number(row["pixel1_ms"]) else None
        text = f"{name}: {row[metric]}% {MEASURES[metric]}, {row['madds_millions']:g} M multiply-adds, "
        text += f"{row['params_millions']} M parameters" + (f", {ms} ms on a Pixel 1" if ms is not None else "")
        source = SOURCES[str(row["source"])]
        point = {"network": network, "name": name, "y": row[metric], "madds": row["madds_millions"], "ms": ms}
        point |= {"metric": metric, "measure": MEASURES[metric], "resolution": row["resolution"]}
        points.append({**point, "params": row["params_millions"], "source": source, "text": f"{text}\n{source}"})
    return points


def madds_chart(published: pd.DataFrame, trained: pd.DataFrame, title: str) -> alt.ConcatChart:
    """Accuracy over multiply-adds: left as published on ImageNet, right as trained by us.

    Args:
        published: From `published_points`.
        trained: From `trained_points`; a line joins the cells of a study that has a single model.
        title: Title above both panels.
    """
    left = _published_chart(paper_points(published), "madds", "As published, ImageNet", MADDS_TITLE)
    points: list[dict[str, Any]] = []
    lines = []
    for study, cells in trained.groupby("study", sort=False):
        models = list(dict.fromkeys(cells["model"]))
        start = len(points)
        for row in rows_of(cells):
            side = 1 + 0.03 * (models.index(row["model"]) - (len(models) - 1) / 2)  # equal costs, drawn side by side
            text = f"{study}, {row['cell']}: {row['top1']:.2f}%, mean of {row['n']:.0f} seeds"
            limits = {"low": row["top1"] - row["half_width"], "high": row["top1"] + row["half_width"]}
            point = {"x": row["madds_millions"] * side, "y": row["top1"], **limits, "series": MODELS[row["model"]]}
            points.append({**point, "text": text})
        least = min(points[start:], key=lambda point: point["y"])
        least["label"] = str(study)
        if len(models) == 1:
            lines.append(points[start:])
    y_title, styles = "test top-1 (%), mean and 95% t interval", network_styles(points)
    heading = f"Trained here: {', '.join(trained['study'].unique())}"
    return beside([left, scatter_chart(heading, points, MADDS_TITLE, y_title, styles, lines=lines)], title)


def phone_chart(published: pd.DataFrame, timed: pd.DataFrame, timed_on: str, title: str) -> alt.ConcatChart:
    """Published accuracy over latency: left on the papers' phone, right the same networks on our hardware.

    Args:
        published: From `published_points`.
        timed: From `timed_points`.
        timed_on: Runtime and hardware.
        title: Title above both panels.
    """
    phone = [point for point in paper_points(published) if point["ms"] is not None]
    times = zip(paper_points(timed), timed["ms"], strict=True)
    measured = [{**point, "ms": ms, "text": f"{point['text']}\n{ms:.2f} ms on {timed_on}"} for point, ms in times]
    extent = [point["y"] for point in (*phone, *measured)]
    left = _published_chart(phone, "ms", "On a Pixel 1, as published", "ms, one big core (log scale)", extent)
    right = _published_chart(measured, "ms", f"On {timed_on}", "ms (log scale)", extent)
    return beside([left, right], title)


def _published_chart(
    points: Sequence[Row], column: str, title: str, x_title: str, extent: Sequence[float] = ()
) -> alt.LayerChart:
    """The papers' networks: widths at the usual resolution joined, other resolutions paler."""
    drawn = [
        {
            **point,
            "x": point[column],
            "series": point["network"],
            "opacity": 0.9 if point["resolution"] == OWN_RESOLUTION else 0.35,
        }
        for point in points
    ]
    lines = [
        [point for point in drawn if point["series"] == name and point["resolution"] == OWN_RESOLUTION]
        for name in network_styles(drawn)
    ]
    y_title = "ImageNet top-1 (%), as published"
    return scatter_chart(title, drawn, x_title, y_title, network_styles(drawn), lines=lines, extent=extent)

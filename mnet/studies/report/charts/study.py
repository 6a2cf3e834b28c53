"""The charts of a study: accuracies, differences to the baseline, and the effect of one option within each network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from mnet.studies.report.charts.colours import colour, enumerated
from mnet.studies.report.charts.marks import (
    LANE,
    beside,
    dots,
    ends,
    finish,
    intervals,
    lay_out,
    line_at,
    names,
    x_axis,
)
from mnet.studies.report.commands import settings_in
from mnet.studies.report.tables import VERDICT_WORDS
from mnet.studies.results.archive import is_known
from mnet.studies.results.table_view import Row, format_interval, format_number, is_number, rows_of
from mnet.tasks import Metric, metric_of

JOINT = "95% interval over all cells and looks"
SHORT_VERDICTS = {"up": "better", "down": "worse", "flat": "no difference", "undecided": "undecided"}


def study_chart(summary: pd.DataFrame, runs: pd.DataFrame, title: str) -> alt.ConcatChart:
    """The accuracy of every seed and cell, and each cell's difference to the baseline.

    Args:
        summary: Rows of `summary.csv`, the baseline first.
        runs: Rows of `runs.csv`.
        title: Title above both panels.
    """
    panels = [accuracy_chart(summary, runs), difference_chart(summary)]
    return beside([panel for panel in panels if panel is not None], title)


def accuracy_chart(summary: pd.DataFrame, runs: pd.DataFrame) -> alt.LayerChart:
    """The headline metric: every seed, the mean and its 95% interval, one row per cell."""
    metric = metric_of(summary)
    cells = _with_result(summary)
    rows = lay_out(_row_names(cells))
    styles = {str(cell["cell"]): (colour(str(cell["cell"])), "diamond") for cell in cells}
    means, seeds, values = [], [], []
    for i, cell in enumerate(cells):
        name, y, mean, half = str(cell["cell"]), rows.marks[i], cell[metric.mean], cell[metric.half_width]
        limits = ends(mean, mean - half, mean + half) if is_number(half) else ends(mean)
        text = f"{name}: mean {mean:.2f}% of {cell['n']:.0f} seeds"
        text += f", 95% interval {format_interval(limits['low'], limits['high'])}" if is_number(half) else ""
        means.append({"x": mean, **limits, "y": y, "series": name, "text": text})
        values.append(f"{mean:.2f}")
        cell_runs = rows_of(runs[runs["cell"] == name])
        for k, run in enumerate(cell_runs):
            shift = -5 + 10 * k / max(1, len(cell_runs) - 1)
            text = f"{name}, seed {run['seed']}: {run[metric.name]:.2f}%\n{_conditions(run)}"
            seeds.append({"x": run[metric.name], "y": y + shift, "series": name, "text": text})
    x = x_axis([f"test {metric.label} (%)", "seeds, mean, 95% t interval"], [*means, *seeds])
    line, diamond = intervals(means, x, rows.height, styles)
    layers = [*names(rows, values), line, dots(seeds, x, rows.height, styles), diamond]
    title = f"{metric.label[0].upper() if metric.label[1].islower() else metric.label[0]}{metric.label[1:]} by seed"
    return finish(title, layers, rows.height)


def difference_chart(summary: pd.DataFrame) -> alt.LayerChart | None:
    """The difference of every cell to the first, with its interval; None if there is none."""
    cells = _with_result(summary)
    if not any(is_number(cell["delta"]) for cell in cells):
        return None
    words = [SHORT_VERDICTS.get(str(cell["verdict"]), "") for cell in cells]
    rows = lay_out([", ".join(filter(None, pair)) for pair in zip(_row_names(cells), words, strict=True)])
    styles = {str(cell["cell"]): (colour(str(cell["cell"])), "diamond") for cell in cells}
    deltas, values = [], []
    for i, cell in enumerate(cells):
        if not is_number(cell["delta"]):
            values.append("" if i else "baseline")
            continue
        compared = f"{cell['cell']} against {cells[0]['cell']}"
        deltas.append({**_difference(cell, compared), "y": rows.marks[i], "series": str(cell["cell"])})
        values.append(format_number(cell["delta"], sign=True))
    title = [f"difference to the first row (points of {metric_of(summary).label})", JOINT]
    x = x_axis(title, deltas, through=0)
    layers = [*names(rows, values), line_at(0, x), *intervals(deltas, x, rows.height, styles)]
    return finish("Difference to the baseline", layers, rows.height)


def effects_chart(effects: pd.DataFrame, metric: Metric, title: str | None = None) -> alt.LayerChart:
    """Within each network, every value of an option against the first.

    Args:
        effects: Rows of `effects.csv`.
        metric: The headline metric of the study.
        title: Title of the chart; None = a title that names the difference.
    """
    first = effects["against"].iloc[0]
    shown = effects[effects["against"] == first]
    variants = {str(name): group["n"].max() for name, group in shown.groupby("variant", sort=False)}
    styles = enumerated(list(dict.fromkeys(map(str, shown["value"]))))
    rows = lay_out([f"{name} (n={n:.0f})" for name, n in variants.items()], len(styles))
    deltas = []
    for row in rows_of(shown):
        variant, value = str(row["variant"]), str(row["value"])
        y = rows.marks[list(variants).index(variant)] + LANE * list(styles).index(value)
        deltas.append({**_difference(row, f"{variant}: {value} against {first}"), "y": y, "series": value})
    x = x_axis([f"{metric.label} minus that of {first} (points)", JOINT], deltas, through=0)
    layers = [*names(rows), line_at(0, x), *intervals(deltas, x, rows.height, styles, legend=True)]
    return finish(title or f"Within each network, the difference to {first}", layers, rows.height)


def _with_result(summary: pd.DataFrame) -> list[dict[str, Any]]:
    return rows_of(summary[summary["n"] > 0])


def _row_names(cells: Sequence[Row]) -> list[str]:
    return [f"{cell['cell']} (n={cell['n']:.0f})" for cell in cells]


def _difference(row: Row, compared: str) -> dict[str, Any]:
    text = f"{compared}: {format_number(row['delta'], sign=True)} points"
    if is_number(row["low"]):
        text += f", 95% interval {format_interval(row['low'], row['high'], sign=True)}: "
        text += VERDICT_WORDS.get(str(row["verdict"]), "")
    return {"x": row["delta"], **ends(row["delta"], row["low"], row["high"]), "text": text}


def _conditions(run: Row) -> str:
    """The settings, hardware and version of a run."""
    settings = ", ".join(f"{name}={value}" for name, value in settings_in(run).items())
    ran = [f"{name} {run[name]}" for name in ("device", "threads", "torch") if name in run and is_known(run[name])]
    return f"{settings}\nrun {run['run_id']}; {', '.join(ran)}"

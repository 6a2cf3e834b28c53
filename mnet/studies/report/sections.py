"""A study on the page: its charts and the tables with the same numbers."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from mnet.errors import ConfigError
from mnet.models.cost import cost
from mnet.models.parts import part_costs
from mnet.models.spec import Network
from mnet.models.toggles import Toggles
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.report import tables
from mnet.studies.report.charts.colours import MODELS, OTHER_NETWORKS
from mnet.studies.report.charts.export import Spec, page_spec
from mnet.studies.report.charts.latency import TOGETHER, blocks_chart, latency_chart
from mnet.studies.report.charts.scatter import MADDS_TITLE, cells_chart, networks_chart
from mnet.studies.report.charts.search import candidates_chart, trace_chart
from mnet.studies.report.charts.study import accuracy_chart, difference_chart, effects_chart
from mnet.studies.report.commands import ResultsFolder, latency_command, settings_in
from mnet.studies.report.data import StudyData
from mnet.studies.report.words import answer, parts_of, sources
from mnet.studies.results import views
from mnet.studies.results.diagnosis import inside_summary
from mnet.studies.results.table_view import Row, Table, rows_of
from mnet.tasks import metric_of

PAPERS_TITLES = {"top1": "The papers, ImageNet", "map": "V3’s table 6, COCO"}
BESIDE_PAPERS = ", next to the papers’ points for the same networks. Their task differs: compare shapes, not numbers."


@dataclass(frozen=True)
class Panel:
    """A chart; its title is written in HTML."""

    title: str
    spec: Spec


@dataclass(frozen=True)
class Figure:
    """Panels side by side, with a caption; `table` is the id of the table that holds the same numbers."""

    caption: str
    panels: Sequence[Panel]
    table: str
    papers: bool = False
    """Whether a panel shows the papers' points, which have a separate table."""


@dataclass(frozen=True)
class Section:
    """A study: question, answer in a sentence, accuracy to beat, figures, tables by id."""

    name: str
    question: str
    description: Sequence[str]
    command: str
    source: str
    answer: str
    to_beat: str
    figures: Sequence[Figure]
    tables: Mapping[str, Table]
    examples: str
    """Image of predictions on test images, as a data URL; empty if there is none."""


def section(data: StudyData, description: str, points: Sequence[Row], folder: ResultsFolder) -> Section:
    """The section of a study.

    Args:
        data: The study's tables.
        description: The description in its sweep file.
        points: The papers' networks, from `paper_points`.
        folder: The results folder.
    """
    question, paragraphs, command = parts_of(description, data.name)
    figures, shown = [], {}
    runs, summary = data.runs, data.summary
    if summary is not None:
        points = [point for point in points if point["metric"] == metric_of(summary).name]
    if runs is not None and summary is not None and (summary["n"] > 0).any():
        shown["cells"] = tables.summary_table(summary, runs, folder)
        shown["runs"] = tables.runs_table(runs, folder)
        caption = f"Test {metric_of(summary).label}: dots are seeds, diamonds means, lines 95% t intervals. "
        caption += "Differences are to the first row, with intervals over all rows and looks."
        figures.append(_figure(caption, [accuracy_chart(summary, runs), difference_chart(summary)], "cells"))
    if data.effects is not None and not data.effects.empty:
        shown["effects"] = tables.effects_table(data.effects)
        caption = "The same network at another precision, with 95% intervals over all networks."
        metric = metric_of(() if summary is None else summary)
        figures.append(_figure(caption, [effects_chart(data.effects, metric)], "effects"))
    if "cells" in shown and runs is not None and summary is not None:
        figures.append(_accuracy_over_madds(summary, runs, points))
    if data.frontier is not None and not data.frontier.empty:
        shown["frontier"] = tables.frontier_table(data.frontier)
        figures.extend(_accuracy_over_latency(data.frontier, runs, points))
    if data.latency is not None and (chart := latency_chart(data.latency)) is not None:
        shown["latency"] = tables.latency_table(data.latency)
        caption = "Latency over the first row’s on the same runtime, with 95% intervals; left of the line is faster. "
        caption += f"Threads: {tables.distinct(data.latency, 'threads')}; {tables.distinct(data.latency, 'device')}."
        figures.append(_figure(caption, [chart], "latency"))
    figures += _search_figures(data, shown)
    if data.inside is not None:
        shown["inside"] = views.inside_table(inside_summary(data.inside)).without_empty_columns()
    figure, further = _cost_by_layer(data)
    figures += [figure] if figure else []
    return Section(
        data.name,
        question,
        paragraphs,
        command,
        sources(data),
        answer(summary, data.effects),
        data.to_beat,
        figures,
        {**shown, **further},
        _image_address(data.examples),
    )


def overview(studies: Sequence[StudyData], points: Sequence[Row]) -> tuple[Figure, Table] | None:
    """Accuracy over multiply-adds of all cells with the most common data and training, next to the papers' networks.

    Returns:
        None if no study has runs.
    """
    trained = [data.runs for data in studies if data.runs is not None and not data.runs.empty]
    if not trained:
        return None
    runs = pd.concat(trained, ignore_index=True)
    if "precision" in runs:
        runs = runs[~runs["precision"].isin(["int8", "int8-qat"])]
    alike = ["dataset", "recipe", "epochs"]
    most = runs[alike].value_counts().index[0]
    runs = runs[(runs[alike] == list(most)).all(axis="columns")]
    metric = metric_of(runs.dropna(axis="columns", how="all"))
    runs = runs[runs[metric.name].notna()]
    cells, drawn = [], set()
    for (study, cell), rows in runs.groupby(["study", "cell"], sort=False):
        if (ids := frozenset(rows["run_id"])) in drawn:  # a cell that studies share
            continue
        drawn.add(ids)
        row = rows_of(rows.head(1))[0]
        point = {"study": study, "cell": cell, "n": len(rows), "x": row["madds"] / 1e6, "y": rows[metric.name].mean()}
        text = f"{study}, {cell}: {point['y']:.2f}%, mean of {len(rows)} seeds; "
        text += f"{point['x']:.2f} M multiply-adds, {row['params'] / 1e6:.3f} M parameters"
        network = MODELS.get(str(row["model"]), OTHER_NETWORKS)
        cells.append({**point, "network": network, "params": row["params"], "madds": row["madds"], "text": text})
    title = f"Ours, {most[0]}, {most[2]} epochs"
    papers = [{**point, "x": point["madds"]} for point in points if point["metric"] == metric.name]
    panels = [
        networks_chart(cells, title, MADDS_TITLE, metric.label),
        networks_chart(papers, PAPERS_TITLES.get(metric.name, ""), MADDS_TITLE, metric.label),
    ]
    caption = f"Accuracy over multiply-adds: every cell that was trained for {most[2]} epochs of {most[0]}, means over "
    caption += "seeds, next to the papers’ published points. The line joins points that no other beats at less cost."
    figure = _figure(caption, panels, "cells", papers=len(points) > 0)
    return figure, tables.overview_table(pd.DataFrame(cells))


def _figure(caption: str, charts: Sequence[alt.LayerChart | None], table: str, papers: bool = False) -> Figure:
    """The charts that exist, as a figure."""
    return Figure(caption, [Panel(*page_spec(chart)) for chart in charts if chart is not None], table, papers)


def _search_figures(data: StudyData, shown: dict[str, Table]) -> Iterator[Figure]:
    """How the networks of a study were found; the tables are added to `shown`."""
    if data.trace is not None and data.trace["accuracy"].notna().any():
        shown["steps"] = views.netadapt_table(data.trace).without_empty_columns()
        caption = "NetAdapt: every proposal after tuning; the line joins those taken, from the start on the right."
        yield _figure(caption, [trace_chart(data.trace)], "steps")
    if data.candidates is not None and data.candidates["accuracy"].notna().any():
        shown["candidates"] = views.candidates_table(data.candidates).without_empty_columns()
        caption = "Candidates after a short training, judged on validation images."
        yield _figure(caption, [candidates_chart(data.candidates)], "candidates")


def _image_address(path: Path | None) -> str:
    """A PNG file as a data URL; empty without one."""
    return "" if path is None else f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _accuracy_over_madds(summary: pd.DataFrame, runs: pd.DataFrame, points: Sequence[Row]) -> Figure:
    """Accuracy over multiply-adds of a study's cells, next to the papers' points of the same networks."""
    title = f"Ours, {tables.distinct(runs, 'dataset')}"
    charts = [cells_chart(summary[summary["n"] > 0], title, "madds", MADDS_TITLE)]
    caption = "Accuracy over multiply-adds: means of our cells with 95% intervals" + (BESIDE_PAPERS if points else ".")
    return _figure(caption, [*charts, _papers_chart(runs, points, "madds", MADDS_TITLE)], "cells", len(points) > 0)


def _accuracy_over_latency(
    frontier: pd.DataFrame, runs: pd.DataFrame | None, points: Sequence[Row]
) -> Iterator[Figure]:
    """Accuracy over latency ratio, next to the papers' points; one figure per group of cells timed together."""
    for _, cells in frontier.groupby([name for name in TOGETHER if name in frontier], sort=False):
        runtime = tables.distinct(cells, "runtime")
        charts = [cells_chart(cells, f"Ours, {runtime}", "ratio", "latency over the first’s (log scale)", through=1)]
        caption = f"Accuracy over latency: our cells on {runtime}, threads: {tables.distinct(cells, 'threads')}, "
        caption += tables.distinct(cells, "device")
        caption += ", next to the papers’ points for the same networks on a phone." if points else "."
        papers = None if runs is None else _papers_chart(runs, points, "ms", "ms on a Pixel 1 (log scale)")
        yield _figure(caption, [*charts, papers], "frontier", papers=len(points) > 0)


def _papers_chart(runs: pd.DataFrame, points: Sequence[Row], column: str, x_title: str) -> alt.LayerChart | None:
    """The papers' points of the networks in these runs."""
    networks = {MODELS.get(str(model)) for model in runs["model"]}
    drawn = [
        {**point, "x": point[column]} for point in points if point["network"] in networks and point[column] is not None
    ]
    metric = metric_of(runs)
    return networks_chart(drawn, PAPERS_TITLES.get(metric.name, ""), x_title, metric.label)


def _cost_by_layer(data: StudyData) -> tuple[Figure | None, dict[str, Table]]:
    """The cost of each block and layer of the baseline, and its latency if it was timed."""
    charts: list[alt.LayerChart] = []
    shown: dict[str, Table] = {}
    network, size, description = _baseline_network(data)
    for runtime, frame in data.blocks.items():
        charts.append(blocks_chart(frame))
        row = {"study": data.name, "runtime": runtime, "threads": tables.distinct(frame, "threads") or 1}
        command = latency_command(row) + " BLOCKS=true"
        caption = f"Blocks of {tables.distinct(frame, 'variant')} on {runtime}"
        shown[f"blocks-{runtime}"] = tables.blocks_table(caption, frame, command)
    if network is not None:
        if not charts:
            blocks = part_costs(network, size)
            charts.append(blocks_chart(blocks))
            shown["blocks"] = views.blocks_table(f"Blocks of {description}", blocks)
        shown["layers"] = views.layers_table(f"Layers of {description}", cost(network, size).layers)
    if not charts:
        return None, shown
    searched = data.trace is not None or data.candidates is not None  # no sweep file to time by name
    how = "" if searched else f"; make latency-{data.name} BLOCKS=true times them"
    caption = f"Where the cost is, by block of the baseline, {description}{how}."
    if data.blocks:
        variant = tables.distinct(next(iter(data.blocks.values())), "variant")
        caption = f"Where the cost is, by block of the baseline, {variant}: counted, and timed block by block."
    return _figure(caption, charts, next(iter(shown))), shown


def _baseline_network(data: StudyData) -> tuple[Network | None, int, str]:
    """The baseline's network, the size of its images, and its settings in words; (None, 0, "") if unknown."""
    first = None
    if data.runs is not None and not data.runs.empty:
        name = data.summary["cell"].iloc[0] if data.summary is not None else data.runs["cell"].iloc[0]
        rows = data.runs[data.runs["cell"] == name]
        first = rows.iloc[0].to_dict() if len(rows) else None
    elif data.latency is not None and not data.latency.empty:
        first = data.latency.iloc[0].to_dict()
    if first is None:
        return None, 0, ""
    names = [name for name in PARAMETERS if name not in ("data_dir", "lr", "batch_size", "epochs", "precision")]
    settings = settings_in(first, names)
    try:
        trial = trial_from(settings)
        images = trial.input_spec()
        network = trial.network(images.num_classes, images.in_channels)
    except (ConfigError, ValueError, TypeError):  # a table of a later version
        return None, 0, ""
    toggles = ", ".join(f"{name}={settings[name]}" for name in Toggles.__dataclass_fields__ if name in settings)
    description = f"{settings['model']}{', ' + toggles if toggles else ''} at {images.resolution} px"
    return network, images.resolution, description

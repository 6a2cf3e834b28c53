"""A study on the page: its tables, and the figures drawn of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError
from mnet.models.cost import cost
from mnet.models.parts import part_costs
from mnet.models.spec import Network
from mnet.models.toggles import Toggles
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.report import charts, tables
from mnet.studies.report.charts import FAMILIES, Chart
from mnet.studies.report.commands import Place, latency_command, told
from mnet.studies.report.words import answer, parts_of, sources
from mnet.studies.results import views
from mnet.studies.results.archive import find_table, read_table
from mnet.studies.results.diagnosis import inside_summary
from mnet.studies.results.table_view import Row, Table, rows_of
from mnet.studies.runs.store import (
    CANDIDATES,
    EFFECTS,
    FRONTIER,
    INSIDE,
    LATENCY,
    PREDICTIONS,
    PUBLISHED,
    RUNS,
    SUMMARY,
    TRACE,
)
from mnet.tasks import metric_of

PAPERS_TITLES = {"top1": "The papers, ImageNet", "map": "V3’s table 6, COCO"}
BESIDE = ", beside what the papers publish of the same networks. That is another task: compare shapes, not numbers."


@dataclass(frozen=True)
class Figure:
    """Panels side by side, with a caption; `table` is the id of the table that holds the same numbers."""

    caption: str
    panels: Sequence[Chart]
    table: str
    papers: bool = False
    """Whether a panel is of the papers' points, which have a table of their own."""


@dataclass(frozen=True)
class Section:
    """A study: question, answer in a sentence, figures, tables by id."""

    name: str
    question: str
    description: Sequence[str]
    command: str
    source: str
    answer: str
    figures: Sequence[Figure]
    tables: Mapping[str, Table]
    examples: str
    """An image of what the networks see in test images, as an address that holds it; empty where there is none."""


@dataclass(frozen=True)
class Data:
    """The tables of a study; None where there is none."""

    name: str
    published: tuple[str, ...]
    """The tables that this machine has not of its own."""
    runs: pd.DataFrame | None
    summary: pd.DataFrame | None
    effects: pd.DataFrame | None
    latency: pd.DataFrame | None
    frontier: pd.DataFrame | None
    trace: pd.DataFrame | None
    """Of NetAdapt."""
    candidates: pd.DataFrame | None
    """Of a search over blocks."""
    inside: pd.DataFrame | None
    blocks: Mapping[str, pd.DataFrame]
    """Runtime -> what each block of the baseline takes on it."""
    examples: Path | None
    """Of `plot_examples`."""

    def frames(self) -> Iterator[tuple[str, pd.DataFrame]]:
        for name in ("runs", "latency", "frontier"):
            if (frame := getattr(self, name)) is not None:
                yield name, frame


def read_study(root: Path, name: str) -> Data | None:
    """The tables of a study; None if it has none."""
    measured, beside = (RUNS, SUMMARY, EFFECTS, LATENCY, FRONTIER), (TRACE, CANDIDATES, INSIDE)
    paths = {one: find_table(root, name, one) for one in (*measured, *beside)}
    if not any(paths[one] for one in measured):
        return None
    read = {one: read_table(path) if path else None for one, path in paths.items()}
    folders = (root / PUBLISHED / name, root / name)  # of a file in both, this machine's is the last
    files = [path for folder in folders for path in sorted(folder.glob("blocks-*.csv"))]
    return Data(
        name,
        published=tuple(one for one, path in paths.items() if path is not None and path.parent != root / name),
        runs=read[RUNS],
        summary=read[SUMMARY],
        effects=read[EFFECTS],
        latency=read[LATENCY],
        frontier=read[FRONTIER],
        trace=read[TRACE],
        candidates=read[CANDIDATES],
        inside=read[INSIDE],
        blocks={path.stem.removeprefix("blocks-"): read_table(path) for path in files},
        examples=find_table(root, name, PREDICTIONS),
    )


def section(data: Data, description: str, points: Sequence[Row], place: Place) -> Section:
    """What a study asked, found and measured."""
    question, paragraphs, command = parts_of(description, data.name)
    figures, kept = [], {}
    runs, summary = data.runs, data.summary
    if summary is not None:
        points = [point for point in points if point["metric"] == metric_of(summary).name]
    if runs is not None and summary is not None and (summary["n"] > 0).any():
        kept["cells"] = tables.summary_table(summary, runs, place)
        kept["runs"] = tables.runs_table(runs, place)
        panels = [charts.accuracy_chart(summary, runs), charts.difference_chart(summary)]
        caption = (
            f"Test {metric_of(summary).label}: dots are seeds, diamonds means, lines 95% t intervals. Differences are "
        )
        caption += "to the first row, paired by seed."
        figures.append(Figure(caption, [panel for panel in panels if panel], "cells"))
    if data.effects is not None and not data.effects.empty:
        kept["effects"] = tables.effects_table(data.effects)
        caption = "The same network at another precision, paired by seed, with 95% t intervals."
        figures.append(Figure(caption, [charts.effects_chart(data.effects)], "effects"))
    if "cells" in kept and runs is not None and summary is not None:
        figures.append(accuracy_madds(summary, runs, points))
    if data.frontier is not None and not data.frontier.empty:
        kept["frontier"] = tables.frontier_table(data.frontier)
        figures.extend(accuracy_latency(data.frontier, runs, points))
    if data.latency is not None and (chart := charts.latency_chart(data.latency)) is not None:
        kept["latency"] = tables.latency_table(data.latency)
        caption = "Latency over the first row’s on the same runtime, with 95% intervals; left of the line is faster. "
        caption += f"Threads: {tables.distinct(data.latency, 'threads')}; {tables.distinct(data.latency, 'device')}."
        figures.append(Figure(caption, [chart], "latency"))
    figures += search_figures(data, kept)
    if data.inside is not None:
        kept["inside"] = views.inside_table(inside_summary(data.inside)).without_empty_columns()
    figure, more = per_layer(data)
    figures += [figure] if figure else []
    return Section(
        data.name,
        question,
        paragraphs,
        command,
        sources(data),
        answer(summary, data.effects),
        figures,
        {**kept, **more},
        image_address(data.examples),
    )


def search_figures(data: Data, kept: dict[str, Table]) -> Iterator[Figure]:
    """How the networks of a study were found; the tables are added to `kept`."""
    if data.trace is not None and (chart := charts.trace_chart(data.trace)) is not None:
        kept["steps"] = views.netadapt_table(data.trace).without_empty_columns()
        caption = "NetAdapt: every proposal after its tuning, and those that were taken, from the seed on the right."
        yield Figure(caption, [chart], "steps")
    if data.candidates is not None and (chart := charts.candidates_chart(data.candidates)) is not None:
        kept["candidates"] = views.candidates_table(data.candidates).without_empty_columns()
        yield Figure("Candidates after a short training, judged on validation images.", [chart], "candidates")


def image_address(path: Path | None) -> str:
    """A PNG file as an address that needs no other file."""
    return "" if path is None else f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def accuracy_madds(summary: pd.DataFrame, runs: pd.DataFrame, points: Sequence[Row]) -> Figure:
    """A study's cells, beside the papers' points of the same networks."""
    cells = summary[summary["n"] > 0]
    title = f"Ours, {tables.distinct(runs, 'dataset')}"
    panels = [charts.cells_scatter(cells, title, "madds", "multiply-adds (millions, log scale)")]
    panels.append(papers_panel(runs, points, "madds", "multiply-adds (millions, log scale)"))
    caption = "Accuracy over multiply-adds: the means of our cells with 95% intervals"
    caption += BESIDE if points else "."
    return Figure(caption, [panel for panel in panels if panel], "cells", papers=len(points) > 0)


def accuracy_latency(frontier: pd.DataFrame, runs: pd.DataFrame | None, points: Sequence[Row]) -> Iterator[Figure]:
    """Accuracy over the ratio of latencies, beside the papers' points; a figure for what was timed together."""
    together = [name for name in ("runtime", "threads", "batch", "device") if name in frontier]
    for _, cells in frontier.groupby(together, sort=False):
        where = tables.distinct(cells, "runtime")
        title = f"Ours, {where}"
        panels = [charts.cells_scatter(cells, title, "ratio", "latency over the first’s (log scale)", through=1)]
        if runs is not None:
            panels.append(papers_panel(runs, points, "ms", "Pixel 1, milliseconds (log scale)"))
        caption = f"Accuracy over latency: our cells on {where}, threads: {tables.distinct(cells, 'threads')}, "
        caption += tables.distinct(cells, "device")
        caption += ", beside what the papers publish of the same networks on a phone." if points else "."
        yield Figure(caption, [panel for panel in panels if panel], "frontier", papers=len(points) > 0)


def papers_panel(runs: pd.DataFrame, points: Sequence[Row], x: str, x_title: str) -> Chart | None:
    """The papers' points of the networks that these runs are of."""
    families = {FAMILIES.get(str(model)) for model in runs["model"]}
    shown = [{**point, "x": point[x]} for point in points if point["network"] in families and point[x] is not None]
    metric = metric_of(runs)
    return charts.networks_scatter(shown, PAPERS_TITLES.get(metric.name, ""), x_title, label=metric.label)


def overview_of(found: Sequence[Data], points: Sequence[Row]) -> tuple[Figure, Table] | None:
    """All cells of all studies over their multiply-adds, where they were trained alike, beside all of the papers'."""
    trained = [data.runs for data in found if data.runs is not None and not data.runs.empty]
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
    own, seen = [], set()
    for (study, cell), rows in runs.groupby(["study", "cell"], sort=False):
        if (ids := frozenset(rows["run_id"])) in seen:  # a cell that studies share
            continue
        seen.add(ids)
        row = rows_of(rows.head(1))[0]
        point = {"study": study, "cell": cell, "n": len(rows), "x": row["madds"] / 1e6, "y": rows[metric.name].mean()}
        said = f"{study}, {cell}: {point['y']:.2f}%, mean of {len(rows)} seeds; "
        said += f"{point['x']:.2f} M multiply-adds, {row['params'] / 1e6:.3f} M parameters"
        network = FAMILIES.get(str(row["model"]), "others")
        own.append({**point, "network": network, "params": row["params"], "madds": row["madds"], "told": said})
    x_title, title = "multiply-adds (millions, log scale)", f"Ours, {most[0]}, {most[2]} epochs"
    papers = [{**point, "x": point["madds"]} for point in points if point["metric"] == metric.name]
    panels = [charts.networks_scatter(own, title, x_title, label=metric.label)]
    panels.append(charts.networks_scatter(papers, PAPERS_TITLES.get(metric.name, ""), x_title, label=metric.label))
    caption = f"Accuracy over multiply-adds: every cell that was trained for {most[2]} epochs of {most[0]}, means over "
    caption += (
        "seeds, beside the papers’ published points on ImageNet. The line joins the points that no other beats at "
    )
    caption += "less cost."
    figure = Figure(caption, [panel for panel in panels if panel], "cells", papers=len(points) > 0)
    return figure, tables.overview_table(pd.DataFrame(own))


def per_layer(data: Data) -> tuple[Figure | None, dict[str, Table]]:
    """What each block and layer of the baseline costs, and takes where it was timed."""
    figures: list[Chart] = []
    kept: dict[str, Table] = {}
    network, size, what = baseline_network(data)
    for runtime_name, frame in data.blocks.items():
        figures.append(charts.blocks_chart(frame))
        row = {"study": data.name, "runtime": runtime_name, "threads": tables.distinct(frame, "threads") or 1}
        command = latency_command(row) + " BLOCKS=true"
        caption = f"Blocks of {tables.distinct(frame, 'variant')} on {runtime_name}"
        kept[f"blocks-{runtime_name}"] = tables.blocks_table(caption, frame, command)
    if network is not None:
        if not figures:
            blocks = part_costs(network, size)
            figures.append(charts.blocks_chart(blocks))
            kept["blocks"] = views.blocks_table(f"Blocks of {what}", blocks)
        kept["layers"] = views.layers_table(f"Layers of {what}", cost(network, size).layers)
    if not figures:
        return None, kept
    searched = data.trace is not None or data.candidates is not None  # no sweep file that could be timed by its name
    how = "" if searched else f"; make latency-{data.name} BLOCKS=true times them"
    caption = f"Where the cost is, by block of the baseline, {what}{how}."
    if data.blocks:
        variant = tables.distinct(next(iter(data.blocks.values())), "variant")
        caption = f"Where the cost is, by block of the baseline, {variant}: counted, and timed block by block."
    return Figure(caption, figures, next(iter(kept))), kept


def baseline_network(data: Data) -> tuple[Network | None, int, str]:
    """The network that a study's others are compared with, the size of its images, and what it is in words."""
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
    settings = told(first, names)
    try:
        trial = trial_from(settings)
        images = trial.input_spec()
        network = trial.network(images.num_classes, images.in_channels)
    except (ConfigError, ValueError, TypeError):  # a table of a later version
        return None, 0, ""
    toggles = ", ".join(f"{name}={settings[name]}" for name in Toggles.__dataclass_fields__ if name in settings)
    what = f"{settings['model']}{', ' + toggles if toggles else ''} at {images.resolution} px"
    return network, images.resolution, what

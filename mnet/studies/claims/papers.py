"""The papers' published networks as points: counted here, drawn beside what was trained and timed here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mnet.errors import ConfigError, text, unknown
from mnet.figures import finish
from mnet.models.cost import cost
from mnet.models.toggles import Toggles, describe
from mnet.settings import hints
from mnet.studies.results.archive import study_table
from mnet.studies.runs.store import LATENCY, SUMMARY
from mnet.studies.sources import Source, read_source

SIZE = ("width", "resolution", "madds_millions", "params_millions", "top1")
TABLES = {
    "slim_v1": ("mobilenet_v1", (*SIZE, "top5", "int8_top1")),
    "slim_v2": ("mobilenet_v2", (*SIZE, "top5", "pixel1_ms")),
    "v3_table9": (None, ("model", "resolution", "width", "top1", "madds_millions", "params_millions", "pixel1_ms")),
}
"""Table below `published` in claims.yaml -> the model that all of it is about, and its columns."""

DETECTORS = "v3_table6"
COLUMNS = ("source", "model", "width", "resolution", "top1", "madds_millions", "params_millions", "pixel1_ms")
COLOURS = {
    "mobilenet_v1": "#000000",
    "mobilenet_v2": "#0072B2",
    "mobilenet_v3_large": "#D55E00",
    "mobilenet_v3_small": "#E69F00",
}
OWN_RESOLUTION = 224
"""Of the papers' images, in pixels, unless they vary it."""


def published_points(claims: Path) -> pd.DataFrame:
    """Every network whose cost and ImageNet accuracy the papers or their authors' pages print.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS`, a row a network: `top1` in percent of ImageNet, `pixel1_ms` on one big core of a Pixel 1; nan where
        none is printed.

    Raises:
        ConfigError: The file has no such tables, or a row of another length.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for name, (model, columns) in TABLES.items():
        for i, row in enumerate(published_table(source, name)):
            if len(row) != len(columns):
                raise source.error(("published", name, i), f"a row of {name} has {len(columns)} values: {columns}")
            told = dict(zip(columns, row, strict=True))
            rows.append({"source": name, **told, "model": model or f"mobilenet_v3_{told['model']}"})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def published_table(source: Source, name: str) -> list[list[Any]]:
    """A table below `published`, a list a network.

    Raises:
        ConfigError: There is none.
    """
    tables = source.content.get("published") if isinstance(source.content, dict) else None
    if not isinstance(tables, dict) or not isinstance(tables.get(name), list):
        raise source.error((), f"no table {name} below published")
    return tables[name]


def published_detectors(claims: Path) -> pd.DataFrame:
    """SSDLite on the papers' networks: cost and COCO's mAP. Source: V3, table 6.

    Args:
        claims: experiments/claims.yaml.

    Returns:
        `COLUMNS` with `map`, in percent, for `top1`; and `reduced_tail`.

    Raises:
        ConfigError: The file has no such table, or a network in it that is none of ours.
    """
    source = read_source(claims)
    rows: list[dict[str, object]] = []
    for i, (name, found, ms, params, madds) in enumerate(published_table(source, DETECTORS)):
        told = re.fullmatch(r"(v\d(?:_large|_small)?)(_reduced_tail)?(?:_([\d.]+))?", name)
        if told is None:
            raise source.error(("published", DETECTORS, i), f"{name!r} is no network of the family")
        row = {"source": DETECTORS, "model": f"mobilenet_{told[1]}", "width": float(told[3] or 1), "resolution": 320}
        row |= {"reduced_tail": bool(told[2]), "map": found, "madds_millions": 1000 * madds}
        rows.append({**row, "params_millions": params, "pixel1_ms": ms})
    return pd.DataFrame(rows)


def counted_beside(points: pd.DataFrame) -> pd.DataFrame:
    """Our counts beside the printed ones.

    Args:
        points: Of `published_points`.

    Returns:
        A row a network: `source, model, width, resolution`; multiply-adds and parameters in millions as printed and
        as counted, and how far the counted ones are off, in percent.
    """
    rows = []
    for _, row in points.iterrows():
        spent = cost(describe(row["model"], width=float(row["width"])), int(row["resolution"]))
        told: dict[str, object] = {name: row[name] for name in ("source", "model", "width", "resolution")}
        for name, ours in (("MAdds", spent.madds / 1e6), ("params", spent.params / 1e6)):
            printed = row[f"{name.lower()}_millions"]
            told |= {f"{name} M": printed, f"{name} counted": round(ours, 2)}
            told[f"{name} off %"] = round(100 * (ours / printed - 1), 1) + 0.0  # not -0.0
        rows.append(told)
    return pd.DataFrame(rows)


def own_points(root: Path, studies: Iterable[str]) -> pd.DataFrame:
    """What was trained here: a row a cell, `study, cell, model, n, top1, half_width, madds_millions`.

    Args:
        root: The results folder.
        studies: Of classification, whose cells; each may have other images and another recipe than the next.

    Raises:
        ConfigError: A study has no tables.
    """
    frames = []
    for study in studies:
        summary, runs = study_table(root, study, SUMMARY), study_table(root, study)
        models = runs.drop_duplicates("cell").set_index("cell")["model"]
        own = summary[summary["n"] > 0]
        named = {"top1_mean": "top1", "top1_half_width": "half_width"}
        own = own.assign(model=own["cell"].map(models), madds_millions=own["madds"] / 1e6).rename(columns=named)
        frames.append(own[["study", "cell", "model", "n", "top1", "half_width", "madds_millions"]])
    if not frames:
        raise ConfigError("no study to draw points of; name one")
    return pd.concat(frames, ignore_index=True)


def timed_points(points: pd.DataFrame, root: Path, studies: Iterable[str], runtime: str) -> pd.DataFrame:
    """The published networks that were timed here too, on one runtime.

    Args:
        points: Of `published_points`.
        root: The results folder.
        studies: With latencies of networks as published.
        runtime: One of `mnet.latency.RUNTIMES`.

    Returns:
        `points` of those networks with `ms`, the median of what this machine took.

    Raises:
        ConfigError: A study has no latencies, or none on this runtime.
    """
    kept = [name for name in hints(Toggles) if name != "width"]
    frames = []
    for study in studies:
        table = study_table(root, study, LATENCY)
        if runtime not in set(table["runtime"]):
            raise unknown(f"runtime in {LATENCY} of {study}", runtime, table["runtime"].unique())
        as_published = (table[[name for name in kept if name in table]] == text(None)).all(axis=1)
        plain = as_published & (table["precision"] == "fp32") & (table["runtime"] == runtime)
        own = table[plain & (table["threads"] == 1) & (table["batch"] == 1)]
        widths = own["width"].replace(text(None), "1").astype(float)
        frames.append(own.assign(width=widths)[["model", "width", "resolution", "median_ms"]])
    timed = pd.concat(frames).dropna().drop_duplicates(["model", "width", "resolution"])
    return points.merge(timed.rename(columns={"median_ms": "ms"}), on=["model", "width", "resolution"])


def plot_madds(points: pd.DataFrame, own: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Accuracy over multiply-adds: left as published on ImageNet, right as trained here. Written as PNG to `path`.

    Args:
        points: Of `published_points`.
        own: Of `own_points`; a line a study.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    draw_published(left, points, "madds_millions")
    left.set_title("as published, ImageNet", fontsize=9)
    left.set_ylabel("top-1 (%)")
    for study, cells in own.groupby("study", sort=False):
        models = list(dict.fromkeys(cells["model"]))
        if len(models) == 1:
            line = cells.sort_values("madds_millions")
            right.plot(line["madds_millions"], line["top1"], color=COLOURS[models[0]], lw=1, alpha=0.6)
        for i, model in enumerate(models):
            ones = cells[cells["model"] == model]
            beside = 1 + 0.03 * (i - (len(models) - 1) / 2)  # at equal cost they would lie upon each other
            look = {"color": COLOURS[model], "fmt": "o", "ms": 5, "capsize": 3, "lw": 1}
            right.errorbar(ones["madds_millions"] * beside, ones["top1"], yerr=ones["half_width"].fillna(0), **look)
        end = cells.sort_values("top1").iloc[0]
        place = {"textcoords": "offset points", "fontsize": 8, "ha": "right"}
        right.annotate(str(study), (end["madds_millions"], end["top1"]), (-12, -10), **place)
    right.set_title(f"trained here: {', '.join(own['study'].unique())}; mean of seeds, 95% t interval", fontsize=9)
    right.margins(x=0.18)
    for axes in (left, right):
        logarithmic(axes)
        axes.set_xlabel("multiply-adds (millions)")
    return finish(figure, path, title, legend=True, grid="both")


def plot_phone(points: pd.DataFrame, timed: pd.DataFrame, here: str, path: Path | None, title: str) -> Figure:
    """Published accuracy over latency: left on the papers' phone, right what the same networks take here. Written as
    PNG to `path`.

    Args:
        points: Of `published_points`.
        timed: Of `timed_points`.
        here: Runtime and machine.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_published(left, points[points["pixel1_ms"].notna()], "pixel1_ms")
    left.set_xlabel("ms on one core of a Pixel 1, as published")
    left.set_ylabel("ImageNet top-1 (%), as published")
    draw_published(right, timed, "ms")
    right.set_xlabel(f"ms on {here}")
    logarithmic(left)
    logarithmic(right)
    panels = [dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) for axes in (left, right)]
    handles = panels[0] | panels[1]  # one may lack a model
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return finish(figure, path, title, grid="both")


def draw_published(axes: Axes, points: pd.DataFrame, column: str) -> None:
    """Widths at the papers' resolution joined, other resolutions as open points."""
    for model, ink in COLOURS.items():
        own = points[points["model"] == model]
        if own.empty:
            continue
        usual = own["resolution"] == OWN_RESOLUTION
        joined, others = own[usual].sort_values(column), own[~usual]
        axes.plot(joined[column], joined["top1"], "o-", color=ink, ms=5, lw=1.2, label=model)
        axes.plot(others[column], others["top1"], "o", color=ink, ms=4, mfc="none", alpha=0.5)


def logarithmic(axes: Axes) -> None:
    """A logarithmic x axis whose ticks are plain numbers, doubled from one to the next."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if math.isfinite(x) else ""))
    axes.xaxis.set_minor_formatter(NullFormatter())

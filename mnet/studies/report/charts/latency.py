"""Figures of latency. One colour a runtime, the same in every figure; safe for colour-blind readers."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mnet.figures import finish
from mnet.tasks import metric_of

COLOURS = {
    "eager": "#000000",
    "compile": "#0072B2",
    "cuda-graphs": "#009E73",
    "onnxruntime": "#56B4E9",
    "executorch": "#D55E00",
    "litert": "#E69F00",
}


def plot_latency(table: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Ratios to the baseline with their 95% intervals, a row a variant and a colour a runtime. PNG to `path`.

    Args:
        table: Rows of `variant, runtime, ratio, low, high, median_ms, stopped`.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    variants = list(dict.fromkeys(table["variant"]))
    runtimes = list(dict.fromkeys(table["runtime"].dropna()))
    labels = [textwrap.fill(name, 38, break_long_words=False) for name in variants]
    lines = sum(max(label.count("\n") + 1.2, 0.75 * len(runtimes)) for label in labels)
    figure = Figure(figsize=(9, 1.8 + 0.3 * lines), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    timed = table[pd.to_numeric(table["ratio"], errors="coerce").notna()]
    for i, runtime in enumerate(runtimes):
        own = timed[timed["runtime"] == runtime]
        rows = [variants.index(name) - 0.3 + 0.6 * (i + 0.5) / len(runtimes) for name in own["variant"]]
        ink = COLOURS.get(runtime, "#CC79A7")
        low, high = own["ratio"] - own["low"], own["high"] - own["ratio"]
        axes.errorbar(own["ratio"], rows, xerr=[low, high], fmt="o", ms=4, capsize=3, lw=1.4, color=ink, label=runtime)
        for x, end, y in zip(own["ratio"], own["high"], rows, strict=True):
            told = "" if x == end else f"{x:.3f}"  # of the baseline nothing
            axes.annotate(told, (end, y), (5, 0), textcoords="offset points", va="center", fontsize=7, color=ink)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_yticks(range(len(variants)), labels)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel("time / time of the first, paired rounds, 95% interval")
    axes.margins(x=0.12)  # for the numbers beside the points
    if len(timed) and timed["ratio"].max() > 3 * timed["ratio"].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    return finish(figure, path, title, legend=len(runtimes) > 1)


def plot_frontier(table: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Top-1, or what else the task compares, over latency, both with 95% intervals, a panel a runtime; the cells
    that none beats are joined.

    Args:
        table: From `frontier.frontier_table`.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    metric, runtimes = metric_of(table), list(dict.fromkeys(table["runtime"]))
    figure = Figure(figsize=(max(7.0, 5.5 * len(runtimes)), 5), dpi=150, layout="constrained", facecolor="white")
    for axes, runtime in zip(figure.subplots(1, len(runtimes), sharey=True, squeeze=False)[0], runtimes, strict=True):
        own, ink = table[table["runtime"] == runtime], COLOURS.get(runtime, "#CC79A7")
        for _, row in own.iterrows():
            half = None if pd.isna(row[metric.half_width]) else row[metric.half_width]
            side = [[row["ratio"] - row["ratio_low"]], [row["ratio_high"] - row["ratio"]]]
            look = {"fmt": "o", "ms": 6, "mfc": ink if row["best"] else "white", "color": ink, "capsize": 3, "lw": 1}
            axes.errorbar(row["ratio"], row[metric.mean], xerr=side, yerr=half, **look)
            name = textwrap.fill(str(row["cell"]), 26, break_long_words=False)
            spot = (row["ratio"], row[metric.mean])
            axes.annotate(name, spot, (7, 4), textcoords="offset points", fontsize=7, va="bottom")
        best = own[own["best"]].sort_values("ratio")
        axes.plot(best["ratio"], best[metric.mean], color=ink, lw=1, alpha=0.6)
        axes.set_title(runtime, fontsize=9)
        axes.set_xlabel("time / time of the first, paired rounds, 95% interval")
        axes.margins(x=0.25, y=0.15)
    figure.axes[0].set_ylabel(f"test {metric.label} (%), mean of seeds, 95% t interval")
    return finish(figure, path, title, grid="both")

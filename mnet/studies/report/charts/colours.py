"""Figures of a study. One colour a variant, the same in every figure; safe for colour-blind readers."""

from __future__ import annotations

import textwrap
import zlib
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnet.figures import finish
from mnet.tasks import metric_of

# Okabe and Ito's palette.
COLOURS = {
    "paper": "#000000",
    "relu": "#0072B2",
    "relu6": "#56B4E9",
    "hswish": "#D55E00",
    "swish": "#E69F00",
    "true": "#009E73",
    "false": "#CC79A7",
}
SPARE = ("#009E73", "#CC79A7", "#0072B2", "#E69F00", "#56B4E9", "#D55E00")


def colour(variant: str) -> str:
    """The colour of a variant, wherever it is drawn."""
    return COLOURS.get(variant, SPARE[zlib.crc32(variant.encode()) % len(SPARE)])


def plot_study(summary: pd.DataFrame, runs: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Left: top-1, or what else the task compares, of every seed, with each cell's mean and 95% interval.
    Right: the difference to the baseline, paired by seed. Written as PNG to `path`.

    Args:
        summary: From `results.summary_table`, the baseline first.
        runs: From `results.runs_table`.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    metric = metric_of(summary)
    labels = [row_label(name, n) for name, n in zip(summary["cell"], summary["n"], strict=True)]
    lines = sum(max(2, text.count("\n") + 1) for text in labels)
    figure = Figure(figsize=(9, 1.9 + 0.27 * lines), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, (_, cell) in enumerate(summary.iterrows()):
        ink = colour(str(cell["cell"]))
        own = runs.loc[runs["cell"] == cell["cell"], metric.name]
        spread = [row - 0.16 + 0.32 * i / max(1, len(own) - 1) for i in range(len(own))]
        left.scatter(own, spread, s=18, color=ink, alpha=0.55, linewidths=0)
        interval(left, row, cell[metric.mean], cell[metric.half_width], ink)
        if row == 0:
            right.annotate("baseline", (0, row), textcoords="offset points", xytext=(6, 5), color="#555555", fontsize=8)
            continue
        if pd.isna(cell["delta"]):
            right.annotate("no result", (0, row), xytext=(6, 5), textcoords="offset points", fontsize=8)
            continue
        interval(right, row, cell["delta"], (cell["high"] - cell["low"]) / 2, ink)
        label = f"{cell['delta']:+.2f}"
        right.annotate(label, (cell["delta"], row), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    left.set_yticks(range(len(summary)), labels)
    left.set_ylim(len(summary) - 0.5, -0.5)
    left.set_xlabel(f"test {metric.label} (%)\nseeds, mean, 95% t interval")
    right.set_xlabel("difference to the first (points)\npaired by seed, 95% t interval")
    right.axvline(0, color="#555555", linewidth=1)
    return finish(figure, path, title)


def plot_effects(effects: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Each variant's difference between the option's first value and the others, side by side, paired by seed, with
    95% intervals. Written as PNG to `path`.

    Args:
        effects: From `effects.effects_table`.
        path: Where to write; None = nowhere.
        title: What was asked.
    """
    first = effects["against"].iloc[0]
    shown = effects[effects["against"] == first]
    variants, values = list(dict.fromkeys(shown["variant"])), list(dict.fromkeys(shown["value"]))
    labels = [row_label(name, shown.loc[shown["variant"] == name, "n"].max()) for name in variants]
    lines = sum(max(2, text.count("\n") + 1) for text in labels)
    figure = Figure(figsize=(8, 1.9 + 0.3 * lines), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for i, value in enumerate(values):
        ink, shift = SPARE[(2 * i + 2) % len(SPARE)], 0.3 * (i - (len(values) - 1) / 2)
        for _, row in shown[shown["value"] == value].iterrows():
            at = variants.index(row["variant"]) + shift
            interval(axes, at, row["delta"], (row["high"] - row["low"]) / 2, ink)
            label = f"{row['delta']:+.2f}"
            axes.annotate(label, (row["delta"], at), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=7)
        axes.plot([], [], "D", color=ink, ms=5, label=value)
    axes.set_yticks(range(len(variants)), labels)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(f"test top-1, difference to {first} (points)\npaired by seed, 95% t interval")
    axes.axvline(0, color="#555555", linewidth=1)
    figure.legend(loc="outside lower right", ncols=len(values), frameon=False, fontsize=9)
    return finish(figure, path, title)


def row_label(cell: str, n: int) -> str:
    """A cell's name on as many lines as it takes, and its number of seeds."""
    return "\n".join(textwrap.wrap(f"{cell} (n={n})", 34, break_long_words=False))


def interval(axes: Axes, row: float, centre: float, half: float, ink: str) -> None:
    """A mean with its interval; without one (a single seed) the mean alone."""
    axes.errorbar(centre, row, xerr=None if pd.isna(half) else half, fmt="D", color=ink, ms=5, capsize=4, lw=1.6)

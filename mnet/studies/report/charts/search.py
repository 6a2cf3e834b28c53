"""Figures of a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from mnet.errors import unknown
from mnet.figures import finish
from mnet.models.spec import Network
from mnet.models.tables import table as network_in
from mnet.search.blocks import best, front, rank_correlation
from mnet.search.netadapt import FOUND, SEED, SETTINGS
from mnet.studies.results.archive import find_table, read_table, studies_with
from mnet.studies.runs.store import CANDIDATES, PROXY, TRACE
from mnet.weights.truncation import sizes


def plot_search(root: Path, name: str, path: Path | None = None) -> Figure:
    """The figure of a search.

    Args:
        root: The results folder.
        name: Of the search, whose files are there or published.
        path: Where to write it, as PNG; None = nowhere.

    Raises:
        ConfigError: There is no such search.
    """
    there = find_table(root, name, TRACE) or find_table(root, name, CANDIDATES)
    if there is None:
        raise unknown(f"search in {root}", name, [*studies_with(root, TRACE), *studies_with(root, CANDIDATES)])
    folder, table = there.parent, read_table(there)
    settings = yaml.safe_load((folder / SETTINGS).read_text())
    cost = str(settings["cost"])
    title = f"{name}: {cost}"
    if there.name == CANDIDATES:
        proxy = read_table(folder / PROXY)
        said = str(rank_correlation(list(proxy["proxy"]), list(proxy["full"])))
        return plot_candidates(table, best(table), proxy, said, path, title)
    unit = "million multiply-adds" if cost.startswith("madds") else "ms"
    way = table[table["taken"]].set_index("step")["cost"]
    reached = way.index[way <= settings["target"] * way.iloc[0]]
    table = table[table["step"] <= min(reached, default=way.index[-1])]  # an earlier search may have gone further
    seed, found = (network_in(str(folder / file)) for file in (SEED, FOUND))
    return plot_trace(table, seed, found, unit, path, title)


TAKEN, LEFT = "#D55E00", "#BBBBBB"


def plot_trace(trace: pd.DataFrame, seed: Network, found: Network, unit: str, path: Path | None, title: str) -> Figure:
    """Left: every proposal by its cost and accuracy, and the way that was taken. Right: what is left of the channels of
    each expansion and bottleneck, from the first layer to the last. Written as PNG to `path`.

    Args:
        trace: Of a search: `step, cost, accuracy, taken`.
        seed: Where it began.
        found: Where it ended.
        unit: Of the cost.
        path: Where to write; None = nowhere.
        title: What was searched.
    """
    figure = Figure(figsize=(12, 4.6), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    way, others = trace[trace["taken"]], trace[~trace["taken"]].dropna(subset=["accuracy"])
    left.scatter(others["cost"], others["accuracy"], s=9, color=LEFT, label="proposals")
    left.plot(way["cost"], way["accuracy"], "o-", ms=3.5, lw=1.2, color=TAKEN, label="taken")
    if len(others):  # a proposal that breaks a network would press all others together
        floor = min(way["accuracy"].min(), float(np.quantile(others["accuracy"], 0.1)))
        left.set_ylim(floor - 0.5, trace["accuracy"].max() + 0.5)
    left.invert_xaxis()
    left.set_xlabel(f"cost ({unit}), less to the right", fontsize=9)
    left.set_ylabel("validation top-1 after tuning (%)", fontsize=9)
    before, after = sizes(seed), sizes(found)
    shown = [name for name in before if not name.startswith(("squeeze", "tail", "hidden"))]
    rows = np.arange(len(shown))
    right.barh(rows, [100 * after[name] / before[name] for name in shown],
               color=["#0072B2" if name.startswith("expansion") else "#009E73" for name in shown])  # fmt: skip
    for row, name in enumerate(shown):
        told = f"{after[name]}" if after[name] == before[name] else f"{before[name]} to {after[name]}"
        end = 100 * after[name] / before[name]
        right.annotate(told, (end, row), (3, 0), textcoords="offset points", va="center", fontsize=7)
    right.set_yticks(rows, shown, fontsize=8)
    right.invert_yaxis()
    right.set_xlim(0, 115)  # for what is written beside bars
    right.set_xlabel("channels left (%)", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    return finish(figure, path, title)


def plot_candidates(candidates: pd.DataFrame, chosen: pd.Series, proxy: pd.DataFrame, told: str, path: Path | None,
                    title: str) -> Figure:  # fmt: skip
    """Left: candidates by cost and accuracy, darker from generation to generation, those that none beats, the seed,
    and the one that was chosen. Right: what the short training says beside the full one. Written as PNG to `path`.

    Args:
        candidates: Of `search_blocks`.
        chosen: One of them.
        proxy: Of `check_proxy`.
        told: How well both rank alike.
        path: Where to write; None = nowhere.
        title: What was searched.
    """
    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    ahead = front(candidates)
    left.scatter(candidates["cost"], candidates["accuracy"], c=candidates["generation"], cmap="Blues", s=18,
                 vmin=-3, edgecolors="#888888", linewidths=0.3, label="candidates, later ones darker")  # fmt: skip
    left.step(ahead["cost"], ahead["accuracy"], where="post", color=LEFT, lw=1.2, label="none is better and cheaper")
    first = candidates.iloc[0]
    left.plot(first["cost"], first["accuracy"], "s", color="#000000", ms=6, label="the seed")
    left.plot(chosen["cost"], chosen["accuracy"], "*", color=TAKEN, ms=13, label="highest reward")
    floor = float(candidates["accuracy"].quantile(0.1))
    left.set_ylim(floor - 1, candidates["accuracy"].max() + 0.5)
    left.set_xlabel("cost, as a share of the seed's", fontsize=9)
    left.set_ylabel("validation top-1 after the short training (%)", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    right.scatter(proxy["proxy"], proxy["full"], s=24, color=TAKEN)
    right.set_xlabel("short training: validation top-1 (%)", fontsize=9)
    right.set_ylabel("full training (%)", fontsize=9)
    right.set_title(told, fontsize=9)
    return finish(figure, path, title, grid="both")

"""The charts of a search: what it tried and what it found."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import pandas as pd

from mnet.errors import unknown
from mnet.files import load_yaml
from mnet.models.spec import Network
from mnet.models.tables import table as network_in
from mnet.search.proxy import rank_correlation
from mnet.studies.report.charts.colours import BLUE, GREEN, GREY, ORANGE, SKY, TEXT, Style
from mnet.studies.report.charts.marks import DESCRIBED, WIDTH, beside, data, finish, series
from mnet.studies.report.charts.scatter import scatter_chart, undominated
from mnet.studies.results.archive import find_table, read_table, studies_with
from mnet.studies.results.table_view import is_number, rows_of
from mnet.studies.runs.store import CANDIDATES, FOUND_NETWORK, PROXY, SEARCH_SETTINGS, START_NETWORK, TRACE
from mnet.weights.truncation import sizes

STEPS: dict[str, Style] = {"taken": (ORANGE, "diamond"), "proposed": (GREY, "circle")}
CHOICES: dict[str, Style] = {
    "candidate": (SKY, "circle"),
    "start": (TEXT, "square"),
    "highest reward": (ORANGE, "diamond"),
}
PLACES: dict[str, Style] = {"expansion": (BLUE, "square"), "bottleneck": (GREEN, "square")}
ACCURACY = "validation top-1 (%)"


def search_chart(root: Path, name: str) -> alt.ConcatChart:
    """All charts of a search.

    Args:
        root: The results folder.
        name: The search; its files are in the results folder or published.

    Raises:
        ConfigError: There is no such search.
    """
    path = find_table(root, name, TRACE) or find_table(root, name, CANDIDATES)
    if path is None:
        raise unknown(f"search in {root}", name, [*studies_with(root, TRACE), *studies_with(root, CANDIDATES)])
    folder, table = path.parent, read_table(path)
    settings = load_yaml(folder / SEARCH_SETTINGS)
    cost = str(settings["cost"])
    if path.name == CANDIDATES:
        panels = [candidates_chart(table), proxy_chart(read_table(folder / PROXY))]
        return beside(panels, f"{name}: {cost}")
    unit = "million multiply-adds" if cost.startswith("madds") else "ms"
    costs = table[table["taken"]].set_index("step")["cost"]
    reached = costs.index[costs <= settings["target"] * costs.iloc[0]]
    table = table[table["step"] <= min(reached, default=costs.index[-1])]  # an earlier search may have gone further
    start, end = (network_in(str(folder / file)) for file in (START_NETWORK, FOUND_NETWORK))
    return beside([trace_chart(table, unit), channels_chart(start, end)], f"{name}: {cost}")


def trace_chart(trace: pd.DataFrame, unit: str = "ms or million multiply-adds") -> alt.LayerChart:
    """Every proposal of NetAdapt by its cost and its validation accuracy, and those that were taken.

    Args:
        trace: Rows of `trace.csv`.
        unit: Unit of the cost.
    """
    points = []
    for row in rows_of(trace.dropna(subset=["accuracy"]).sort_values("taken")):
        changed = is_number(row.get("before"))
        change = f"{row['before']:.0f} to {row['after']:.0f} channels" if changed else "the start"
        text = f"step {row['step']:.0f}, {row['space']}, {change}: {row['accuracy']:.2f}% at {row['cost']:.4f}"
        text += f"{', taken' if row['taken'] else ''}\nrun {row['run_id']}"
        name = "taken" if row["taken"] else "proposed"
        points.append({"x": row["cost"], "y": row["accuracy"], "series": name, "text": text})
    taken = [point for point in points if point["series"] == "taken"]
    title = "Proposals of every step, after tuning"
    return scatter_chart(title, points, f"cost ({unit}, log scale)", ACCURACY, STEPS, lines=[taken])


def channels_chart(start: Network, end: Network) -> alt.LayerChart:
    """The share of channels that a search kept in each expansion and bottleneck, from the first layer to the last."""
    before, after = sizes(start), sizes(end)
    rows = [
        {
            "name": name,
            "x": 100 * after[name] / before[name],
            "series": "expansion" if name.startswith("expansion") else "bottleneck",
            "text": f"{before[name]} to {after[name]}" if after[name] != before[name] else f"{after[name]}",
        }
        for name in before
        if not name.startswith(("squeeze", "tail", "hidden"))
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "x:Q",
            title="channels left (%)",
            scale=alt.Scale(domain=[0, 118], nice=False),
            axis=alt.Axis(values=[0, 25, 50, 75, 100]),
        ),
        y=alt.Y("name:N", title=None, sort=None),
    )
    bars = base.mark_bar().encode(**series(PLACES, legend=True, shape=False), **DESCRIBED)
    text = base.mark_text(align="left", dx=3, fontSize=9, aria=False).encode(text="text:N")
    return finish("Channels", [bars, text], 17 * len(rows), WIDTH - 60)


def candidates_chart(candidates: pd.DataFrame) -> alt.LayerChart:
    """Candidates of a search over blocks by cost and accuracy, with the start and the highest reward marked; a line
    joins those that no other beats at less cost.

    Args:
        candidates: Rows of `candidates.csv`.
    """
    points, best = [], candidates["reward"].idxmax()
    for i, row in candidates.dropna(subset=["accuracy"]).iterrows():
        name = "start" if i == 0 else "highest reward" if i == best else "candidate"
        text = f"generation {row['generation']:.0f}: {row['accuracy']:.2f}% at {row['cost']:.3f} of the start's cost, "
        text += f"reward {row['reward']:.2f}\nrun {row['run_id']}"
        points.append({"x": row["cost"], "y": row["accuracy"], "series": name, "text": text})
    points.sort(key=lambda point: list(CHOICES).index(point["series"]))
    title, x_title = "Candidates, after the short training", "cost over the start's (log scale)"
    return scatter_chart(title, points, x_title, ACCURACY, CHOICES, lines=[undominated(points)], through=1)


def proxy_chart(proxy: pd.DataFrame) -> alt.LayerChart:
    """How well the short training predicts the full one.

    Args:
        proxy: Rows of `proxy.csv`: the accuracies of candidates after both.
    """
    agreement = str(rank_correlation(list(proxy["proxy"]), list(proxy["full"])))
    name = "a candidate, trained both ways"
    points = [
        {"x": row["proxy"], "y": row["full"], "series": name, "text": f"{row['proxy']:.2f}%, then {row['full']:.2f}%"}
        for row in rows_of(proxy)
    ]
    x_title, y_title = f"short training: {ACCURACY}", f"full training: {ACCURACY}"
    return scatter_chart(agreement, points, x_title, y_title, {name: (ORANGE, "circle")}, log=False)

"""Inside the networks of a study: its finished runs, layer by layer, on the same test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mnet.errors import ConfigError
from mnet.figures import finish
from mnet.models.diagnostics import LOGGED, activations, depthwise_kernels, spiral, through_relu
from mnet.models.network import MobileNet
from mnet.studies.results.archive import study_table
from mnet.studies.results.plots import SPARE, colour
from mnet.studies.results.statistics import half_width, paired_deltas, verdict
from mnet.studies.runs.store import METRICS, WEIGHTS, run_folder
from mnet.studies.trial import QUANTIZED, Trial

FIGURE, DEATHS_FIGURE = "inside.png", "deaths.png"
EVERY = "all"
"""Layers together."""
DEATHS_MARGIN = 0.5
"""Percent of all kernels: within it as many die."""
MEASURES = {
    "dead": "dead depthwise kernels %",
    "silent": "silent channels %",
    "rank_kept": "effective rank after / before",
}
"""Column -> what it is."""


def inside_table(root: Path, study: str, images: int = 256) -> pd.DataFrame:
    """Every layer of every run whose weights are there.

    Args:
        root: The results folder.
        study: A study of classification, with finished runs.
        images: Of the test split, the first.

    Returns:
        One row a run and layer with a non-linearity: `cell`, `seed`, `run_id`, where it was trained, `position` in
        the network, `layer`, `channels`; `dead` (share of the depthwise kernels whose norm is below a hundredth of what
        it began with, and `least`, the smallest norm as a share of that); `silent` (share of the channels that are zero
        for all images), `rank_before` and `rank_after` the non-linearity, `low`, `high` and `largest` of its values.

    Raises:
        ConfigError: There is no such study, or no weights of it here.
    """
    from mnet.studies.runs.predictions import load_predictor  # with Lightning, which reading a table needs not

    missing = ConfigError(f"no weights of {study} in {root}; make ablate-{study} trains its networks")
    if not any((root / study).glob(f"runs/*/{WEIGHTS}")):
        raise missing
    rows: list[dict[str, object]] = []
    seen: dict[tuple[object, ...], Tensor] = {}
    for _, run in study_table(root, study).iterrows():
        folder = run_folder(root, study, str(run["run_id"]))
        if not (folder / WEIGHTS).is_file() or run.get("precision", "fp32") in QUANTIZED:
            continue
        predictor = load_predictor(folder)
        trial, net = predictor.trial, predictor.model.net
        assert isinstance(net, MobileNet)
        key = trial.dataset, trial.data_dir, trial.resolution
        if key not in seen:
            seen[key] = first_images(trial, images)
        known = {name: run[name] for name in ("study", "cell", "seed", "run_id", "device", "torch", "revision")}
        rows += [{**known, "position": i, **layer} for i, layer in enumerate(layers_of(net, seen[key]))]
    if not rows:
        raise missing
    return pd.DataFrame(rows)


def first_images(trial: Trial, count: int) -> Tensor:
    """Of the test split, as a network sees them: (count, C, H, W)."""
    from mnet.studies.runs.prepare import load_data

    data = load_data(trial, trial.full_recipe())
    batches = islice(iter(data.test_dataloader()), -(-count // trial.full_recipe().batch_size))
    return torch.cat([images for images, _ in batches])[:count]


def layers_of(net: MobileNet, images: Tensor) -> Iterator[dict[str, object]]:
    """The rows of one network, in the order of execution."""
    kernels = {one.layer: one for one in depthwise_kernels(net)}
    for one in activations(net, images):
        row: dict[str, object] = {"layer": one.layer, "channels": one.channels, "activation": one.activation}
        if (own := kernels.get(one.layer)) is not None:
            row |= {"dead": own.dead, "least": float(own.norms.min())}
        ranks = {"rank_before": one.rank_before, "rank_after": one.rank_after}
        yield {**row, "silent": one.silent, **ranks, "low": one.low, "high": one.high, "largest": one.largest}


def inside_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the mean over seeds and layers of each of `MEASURES`, and half its 95% t interval over seeds.

    Kernels and channels count alike in whichever layer; ranks layer by layer.
    """
    rows = []
    for cell, own in table.groupby("cell", sort=False):
        row: dict[str, object] = {"cell": cell, "n": own["seed"].nunique()}
        for name in MEASURES:
            values = np.array([mean_of(run, name) for _, run in own.groupby("seed")])
            row |= {name: values.mean(), f"{name}_half_width": half_width(values)}
        rows.append(row)
    return pd.DataFrame(rows)


def mean_of(run: pd.DataFrame, name: str) -> float:
    if name == "rank_kept":
        return float((run["rank_after"] / run["rank_before"].clip(lower=1e-9)).mean())
    own = run.dropna(subset=[name])
    return float((own[name] * own["channels"]).sum() / max(1, own["channels"].sum()) * 100)


def plot_through_relu(dimensions: Sequence[int], seed: int = 0, path: Path | None = None) -> Figure:
    """A spiral, and what comes back of it through so many dimensions and ReLU. Source: V2, figure 1."""
    embedded = through_relu(dimensions, seed)
    figure = Figure(figsize=(2.1 * (1 + len(embedded)), 2.4), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 1 + len(embedded), sharex=True, sharey=True)
    curves = [
        ("the spiral", spiral()),
        *((f"{one.dimensions} dimensions, {one.lost:.0%} lost", one.back) for one in embedded),
    ]
    for axes, (name, curve) in zip(panels, curves, strict=True):
        axes.scatter(*curve.T, c=range(len(curve)), s=2, cmap="viridis")
        axes.set_title(name, fontsize=8)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
    return finish(figure, path, "")


def plot_inside(table: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """A panel for each of `MEASURES`: layers from first to last, a line a cell, the mean of its seeds."""
    figure = Figure(figsize=(12, 3.8), dpi=150, layout="constrained", facecolor="white")
    shown = table.assign(
        dead=100 * table["dead"], silent=100 * table["silent"], rank_kept=table["rank_after"] / table["rank_before"]
    )
    for axes, (name, label) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for cell, own in shown.dropna(subset=[name]).groupby("cell", sort=False):
            line = own.groupby("position")[name].mean()
            axes.plot(line.index, line, marker="o", markersize=3, color=colour(str(cell)), label=str(cell))
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("layer, from the first to the last", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0, None if name == "rank_kept" else max(1.0, axes.get_ylim()[1]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return finish(figure, path, title, legend=True, grid="y")


def deaths_table(root: Path, study: str) -> pd.DataFrame:
    """Dead depthwise kernels through training: of every run and layer after every epoch.

    Args:
        root: The results folder.
        study: With finished runs whose metrics.csv is there.

    Returns:
        `cell`, `seed`, `step`, `layer` (`all` = of the whole network), `dead` in percent of the layer's kernels. No row
        where no run has counted them.
    """
    rows = []
    for _, run in study_table(root, study).iterrows():
        path = run_folder(root, study, str(run["run_id"])) / METRICS
        if not path.is_file():
            continue
        metrics = pd.read_csv(path)
        if LOGGED not in metrics:
            continue
        own = metrics.dropna(subset=[LOGGED])
        names = [LOGGED, *(name for name in own if str(name).startswith(f"{LOGGED}/"))]
        long = own.melt("step", names, "layer", "dead").assign(cell=run["cell"], seed=run["seed"])
        rows.append(long.assign(layer=long["layer"].str.removeprefix(f"{LOGGED}/").replace(LOGGED, EVERY)))
    columns = ["cell", "seed", "step", "layer", "dead"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def deaths_summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Which cells' depthwise kernels died, and how that differs from the first cell of the same model.

    Args:
        runs: Of a study, with `model` and `dead_kernels` in percent.

    Returns:
        One row a cell: `cell`, `n`, `dead` and its `half_width` (95% t interval over seeds), `top1`; `delta` to the
        first cell of its model, paired by seed, with `low`, `high`, `p_holm` and a `verdict`, up = more die.
    """
    rows = []
    for _, own in runs.groupby("model", sort=False):
        first = str(own["cell"].iloc[0])
        deltas = {row["cell"]: row for row in paired_deltas(own, first, "dead_kernels").to_dict("records")}
        for cell, some in own.groupby("cell", sort=False):
            shares = some["dead_kernels"].to_numpy(float)
            row = {"cell": cell, "n": len(some), "dead": shares.mean(), "half_width": half_width(shares)}
            row["top1"] = some["top1"].mean()
            if cell != first:
                found = deltas[cell]
                row |= {name: found[name] for name in ("delta", "low", "high", "p_holm")}
                row["verdict"] = verdict(found["low"], found["high"], found["p_holm"], DEATHS_MARGIN)
            rows.append(row)
    return pd.DataFrame(rows)


def plot_deaths(deaths: pd.DataFrame, path: Path | None, title: str) -> Figure:
    """Left: dead depthwise kernels through training, a line a cell. Right: layer by layer at the end, where any died.

    Args:
        deaths: Of `deaths_table`.
        path: Where to write, as PNG; None = nowhere.
        title: What was asked.
    """
    figure = Figure(figsize=(12, 4.4), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    whole, layers = deaths[deaths["layer"] == EVERY], deaths[deaths["layer"] != EVERY]
    for i, (cell, own) in enumerate(whole.groupby("cell", sort=False)):
        ink, dash = SPARE[i % len(SPARE)], "-" if i < len(SPARE) else "--"
        line = own.groupby("step")["dead"].agg(["mean", "min", "max"])
        left.plot(line.index, line["mean"], dash, marker="o", markersize=3, color=ink, label=str(cell))
        left.fill_between(line.index, line["min"], line["max"], color=ink, alpha=0.15, linewidth=0)
        last = layers[(layers["cell"] == cell) & (layers["step"] == own["step"].max())]
        shares = last.groupby("layer", sort=False)["dead"].mean()
        if shares.max() > 0:
            right.plot(range(len(shares)), shares, dash, marker="o", markersize=3, color=ink)
    left.set_ylabel("dead kernels (%): mean and range of seeds", fontsize=9)
    left.set_xlabel("training step", fontsize=9)
    right.set_ylabel("dead in the layer, at the end (%)", fontsize=9)
    right.set_xlabel("depthwise layer, from the first to the last", fontsize=9)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, None, title, grid="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return finish(figure, path, title, grid="y")

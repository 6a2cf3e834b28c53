"""Inside the networks of a study: its finished runs, layer by layer, on the same test images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnet.errors import ConfigError
from mnet.models.diagnostics import DEAD_LOG, activation_stats, depthwise_kernels
from mnet.models.network import MobileNet
from mnet.studies.results.archive import study_table
from mnet.studies.results.statistics import half_width, paired_deltas, verdict
from mnet.studies.runs.store import METRICS, WEIGHTS, run_folder
from mnet.studies.trial import QUANTIZED, Trial

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
    for one in activation_stats(net, images):
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
        if DEAD_LOG not in metrics:
            continue
        own = metrics.dropna(subset=[DEAD_LOG])
        names = [DEAD_LOG, *(name for name in own if str(name).startswith(f"{DEAD_LOG}/"))]
        long = own.melt("step", names, "layer", "dead").assign(cell=run["cell"], seed=run["seed"])
        rows.append(long.assign(layer=long["layer"].str.removeprefix(f"{DEAD_LOG}/").replace(DEAD_LOG, EVERY)))
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

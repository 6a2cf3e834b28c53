"""Inside the networks of a study: its finished runs, layer by layer, on the same test images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnet.errors import ConfigError, leave_out
from mnet.models.diagnostics import DEAD_LOG, activation_stats, depthwise_kernels
from mnet.models.network import MobileNet
from mnet.studies.results.archive import study_table, usable_table
from mnet.studies.results.decide import differences, judge
from mnet.studies.results.statistics import half_width, table_by_seed
from mnet.studies.runs.store import METRICS, WEIGHTS, run_folder, runs_with
from mnet.studies.trial import QUANTIZED, Trial

EVERY = "all"
"""Value of `layer` in rows about the whole network."""
DEATHS_MARGIN = 0.5
"""Percent of all kernels; a smaller difference is flat."""
MEASURES = {
    "dead": "dead depthwise kernels %",
    "silent": "silent channels %",
    "rank_kept": "effective rank after / before",
}
"""Column -> title."""


def inside_table(root: Path, study: str, images: int = 256) -> pd.DataFrame:
    """Every layer of every unquantized run that has weights.

    Args:
        root: The results folder.
        study: A classification study with finished runs.
        images: Number of test images, the first of the split.

    Returns:
        One row per run and layer with a non-linearity: `study`, `cell`, `seed`, `run_id`, hardware and versions,
        `position` in the network, `layer`, `activation`, `channels`; `dead`, the share of depthwise kernels whose norm
        is below 1% of the initial one, and `least`, the smallest norm as a share of the initial one; `silent`, the
        share of channels that are zero for all images; `rank_before` and `rank_after` the non-linearity; `low`, `high`
        and `largest` of its values.

    Raises:
        ConfigError: There is no such study, or it has no weights.
    """
    from mnet.studies.runs.predictions import load_predictor  # imports Lightning

    missing = ConfigError(f"no weights of {study} in {root}; run make ablate-{study}")
    if not any(runs_with(WEIGHTS, root / study)):
        raise missing
    rows: list[dict[str, object]] = []
    batches: dict[tuple[object, ...], Tensor] = {}
    for _, run in study_table(root, study).iterrows():
        folder = run_folder(root, study, str(run["run_id"]))
        if not (folder / WEIGHTS).is_file() or run.get("precision", "fp32") in QUANTIZED:
            continue
        try:
            predictor = load_predictor(folder)
        except ConfigError as error:
            leave_out(folder / WEIGHTS, error)
            continue
        trial, net = predictor.trial, predictor.model.net
        assert isinstance(net, MobileNet)
        key = trial.dataset, trial.data_dir, trial.resolution
        if key not in batches:
            batches[key] = _first_images(trial, images)
        identity = {name: run[name] for name in ("study", "cell", "seed", "run_id", "device", "torch", "revision")}
        rows += [{**identity, "position": i, **layer} for i, layer in enumerate(_layer_rows(net, batches[key]))]
    if not rows:
        raise missing
    return pd.DataFrame(rows)


def _first_images(trial: Trial, count: int) -> Tensor:
    """The first images of the test split, prepared for the network: (count, C, H, W)."""
    from mnet.studies.runs.images import load_data

    data = load_data(trial, trial.full_recipe())
    batches = islice(iter(data.test_dataloader()), -(-count // trial.full_recipe().batch_size))
    return torch.cat([images for images, _ in batches])[:count]


def _layer_rows(net: MobileNet, images: Tensor) -> Iterator[dict[str, object]]:
    """The rows of one network, in the order of execution."""
    kernels = {kernel.layer: kernel for kernel in depthwise_kernels(net)}
    for stats in activation_stats(net, images):
        row: dict[str, object] = {"layer": stats.layer, "channels": stats.channels, "activation": stats.activation}
        if (kernel := kernels.get(stats.layer)) is not None:
            row |= {"dead": kernel.dead, "least": float(kernel.norms.min())}
        ranks = {"rank_before": stats.rank_before, "rank_after": stats.rank_after}
        yield {**row, "silent": stats.silent, **ranks, "low": stats.low, "high": stats.high, "largest": stats.largest}


def inside_summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: the mean over seeds and layers of each of `MEASURES`, and half its 95% t interval over seeds.

    The mean over layers weights each kernel and channel equally; that of ranks, each layer.
    """
    rows = []
    for cell, runs in table.groupby("cell", sort=False):
        row: dict[str, object] = {"cell": cell, "n": runs["seed"].nunique()}
        for name in MEASURES:
            values = np.array([_mean_over_layers(run, name) for _, run in runs.groupby("seed")])
            row |= {name: values.mean(), f"{name}_half_width": half_width(values)}
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_over_layers(run: pd.DataFrame, name: str) -> float:
    if name == "rank_kept":
        return float((run["rank_after"] / run["rank_before"].clip(lower=1e-9)).mean())
    layers = run.dropna(subset=[name])
    return float((layers[name] * layers["channels"]).sum() / max(1, layers["channels"].sum()) * 100)


def deaths_table(root: Path, study: str) -> pd.DataFrame:
    """Dead depthwise kernels during training: one row per run, layer and epoch.

    Args:
        root: The results folder.
        study: A study with finished runs that have a metrics.csv.

    Returns:
        `cell`, `seed`, `step`, `layer` (`EVERY` = the whole network), `dead` in percent of the layer's kernels. Empty
        if no run logged them.
    """
    rows = []
    for _, run in study_table(root, study).iterrows():
        path = run_folder(root, study, str(run["run_id"])) / METRICS
        if (found := usable_table(path)) is None or DEAD_LOG not in found[1]:
            continue
        metrics = found[1]
        logged = metrics.dropna(subset=[DEAD_LOG])
        names = [DEAD_LOG, *(name for name in logged if str(name).startswith(f"{DEAD_LOG}/"))]
        long = logged.melt("step", names, "layer", "dead").assign(cell=run["cell"], seed=run["seed"])
        rows.append(long.assign(layer=long["layer"].str.removeprefix(f"{DEAD_LOG}/").replace(DEAD_LOG, EVERY)))
    columns = ["cell", "seed", "step", "layer", "dead"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def deaths_summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Dead depthwise kernels by cell, and the difference to the first cell of the same model.

    Args:
        runs: The runs of a study, with `model` and `dead_kernels` in percent.

    Returns:
        One row per cell: `cell`, `n`, `dead` and its `half_width` (95% t interval over seeds), `top1`; `delta` to the
        first cell of its model, with `low`, `high`, `p` and a `verdict` as from `decide`; up = more dead kernels.
    """
    cells = runs.drop_duplicates("cell").set_index("cell")["model"]
    first = {model: str(cell) for cell, model in reversed(list(cells.items()))}
    pairs = [(str(cell), first[model]) for cell, model in cells.items() if cell != first[model]]
    values = table_by_seed(runs, str(cells.index[0]), "dead_kernels")
    groups = [list(first).index(cells[str(name)]) for name in values]
    judged = judge(values, differences(values, pairs), margin=DEATHS_MARGIN, groups=groups)
    judged = judged.assign(cell=[cell for cell, _ in pairs]).set_index("cell")
    rows = []
    for cell in (name for model in dict.fromkeys(cells) for name in cells.index[cells == model]):
        of_cell = runs[runs["cell"] == cell]
        shares = of_cell["dead_kernels"].to_numpy(float)
        row = {"cell": cell, "n": len(of_cell), "dead": shares.mean(), "half_width": half_width(shares)}
        compared = judged.loc[cell, ["delta", "low", "high", "p", "verdict"]].to_dict() if cell in judged.index else {}
        rows.append({**row, "top1": of_cell["top1"].mean(), **compared})
    return pd.DataFrame(rows)

"""What all claims would cost at the papers' own scale, and how a study spreads over machines:
`python experiments/scaling.py` (2 minutes).

The throughput of each paper's network at 224 px is measured on this machine's device. Trials are then handed out as
the engines do, to more and more workers. `--write` puts both tables into docs/scaling.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from common.markdown import fill_marks, pipe_table
from common.sweeps import HERE, SWEEPS, overrides
from torch.nn import functional

import mnet
from mnet.errors import ConfigError
from mnet.files import write_atomic
from mnet.latency.paired import synchronise
from mnet.models.cost import cost
from mnet.provenance import provenance
from mnet.studies import Trial
from mnet.studies.engines.packing import hand_out
from mnet.studies.runs.store import PUBLISHED, RUNS
from mnet.studies.study import list_studies, load_study
from mnet.tasks.module import make_optimizer
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import recipe

ROOT = HERE.parent
DOCUMENT = ROOT / "docs/scaling.md"
PAPERS = {"mobilenet_v1": "v1", "mobilenet_v2": "v2", "mobilenet_v3_large": "v3", "mobilenet_v3_small": "v3"}
"""Recipes in which the networks were published."""
SIDE, IMAGES = 224, 1_281_167
SEEDS = 3
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS = 12.0
"""Of measuring a network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_size", type=int, default=None, help="of measuring; default: 16, on a GPU 256")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    options = parser.parse_args(arguments)
    try:
        if options.batch_size is not None and options.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {options.batch_size}")
        batch_size = options.batch_size or (256 if options.device.startswith("cuda") else 16)
        speeds = {model: images_per_second(model, options.device, batch_size) for model in PAPERS}
    except (ConfigError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    trials = reproduction()
    hours = {trial.run_id: hours_of(trial, speeds) for trial in trials}
    quick = published_seconds()
    machine = provenance(torch.device(options.device))
    tables = {
        "speeds": speed_table(speeds, machine, batch_size),
        "imagenet": cost_table(trials, hours),
        "spread": spread_table(list(hours.values()), quick),
    }
    for table in tables.values():
        print(f"{table}\n")
    if options.write:
        text = fill_marks(DOCUMENT.read_text(), tables.__getitem__)
        write_atomic(DOCUMENT, lambda stream: stream.write(text.encode()))
        print(f"  {DOCUMENT.relative_to(ROOT)}")
    return 0


def images_per_second(model: str, device: str, batch_size: int) -> float:
    """Of training steps at 224 px on one device, on a CPU on one thread; images already there."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = mnet.create_model(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = make_optimizer(net, recipe(PAPERS[model]))
        images = torch.randn(batch_size, 3, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)
        labels, steps, start = torch.randint(1000, (batch_size,), device=device), -1, 0.0
        while steps < 2 or time.perf_counter() - start < SECONDS:
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            synchronise(device)
            steps += 1
            if not steps:  # after one step that is not timed
                start = time.perf_counter()
        return steps * batch_size / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def reproduction() -> list[Trial]:
    """Every classifier of every study as published, on ImageNet by its paper's recipe, each once."""
    found: dict[str, Trial] = {}
    for name in list_studies(SWEEPS):
        study = load_study(SWEEPS / f"{name}.yaml", overrides(name, "full", SEEDS, {}))
        for _, trial in study.trials:
            if trial.task.name == "classification" and trial.precision == "fp32":
                own = at_scale(trial)
                found.setdefault(own.run_id, own)
    return list(found.values())


def at_scale(trial: Trial) -> Trial:
    """The same question on ImageNet, with the paper's own strides and recipe: a width that was solved for stays, a
    resolution that a study varies is the same part of 224."""
    width = trial.width if trial.target_madds is None else trial.solved_width()
    part = None if trial.resolution is None else trial.resolution / trial.dataset_class().native_resolution
    return replace(
        replace(trial, total_stride=None, epochs=None, batch_size=None, lr=None, target_madds=None, resolution=None),
        dataset="imagenet",
        recipe=PAPERS[trial.model],
        width=width,
        resolution=None if part is None else round(SIDE * part),
    )


def hours_of(trial: Trial, speeds: Mapping[str, float]) -> float:
    """On one device: as its paper's own network, in proportion to the activations that are written and read."""
    seen = trial.input_spec()
    mine, paper = (
        sum(row.out_channels * row.resolution**2 for row in cost(network, side).rows)
        for network, side in (
            (trial.network(seen.num_classes, seen.in_channels), seen.resolution),
            (mnet.describe(trial.model), SIDE),
        )
    )
    return trial.full_recipe().epochs * IMAGES * mine / paper / speeds[trial.model] / 3600


def published_seconds() -> list[float]:
    """Training times of every published run of the quick profile."""
    tables = [pd.read_csv(path) for path in sorted((ROOT / "results" / PUBLISHED).glob(f"*/{RUNS}"))]
    seconds = pd.concat(tables).drop_duplicates("run_id")["train_seconds"]
    return [float(one) for one in seconds]


def speed_table(speeds: Mapping[str, float], machine: Mapping[str, object], batch_size: int) -> str:
    rows = [[model, f"{speed:.1f}", f"{IMAGES / speed / 3600:.1f}"] for model, speed in speeds.items()]
    told = f"{machine['device']}, torch {machine['torch']}, batch {batch_size}, revision {machine['revision']}"
    return pipe_table(("network", "images a second", "hours an epoch of ImageNet"), rows) + f"\n\nMeasured on: {told}."


def cost_table(trials: Sequence[Trial], hours: Mapping[str, float]) -> str:
    rows = []
    for model, paper in PAPERS.items():
        own = [hours[trial.run_id] for trial in trials if trial.model == model]
        epochs = recipe(paper).epochs
        rows.append([model, f"{len(own)}", f"{epochs}", f"{sum(own):,.0f}", f"{max(own, default=0):,.0f}"])
    every = list(hours.values())
    rows.append(["all", f"{len(every)}", "", f"{sum(every):,.0f}", f"{max(every):,.0f}"])
    return pipe_table(("networks of", "runs", "epochs", "device hours", "longest run"), rows)


def spread_table(hours: Sequence[float], quick: Sequence[float]) -> str:
    """Wall time by workers: of all runs on ImageNet in hours, and of the published quick runs in minutes."""
    rows = []
    for workers in WORKERS:
        told = [f"{workers}"]
        for durations, unit in ((hours, 1.0), (quick, 60.0)):
            end = hand_out(durations, workers)
            told += [f"{end / unit:,.1f}", f"{sum(durations) / workers / end:.0%}"]
        rows.append(told)
    heads = ("workers", "ImageNet, hours", "busy", f"{len(quick)} quick runs, minutes", "busy")
    return pipe_table(heads, rows)


if __name__ == "__main__":
    sys.exit(main())

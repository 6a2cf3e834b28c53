"""Estimate the cost of the papers' claims at the papers' own scale: `python experiments/scaling.py` (2 minutes).

Measures the throughput of each paper's network at 224 px on this machine, then simulates handing out the trials to more
and more workers, as the engines do. `--write=true` puts the tables into docs/scaling.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from common.markdown import fill_marks, pipe_table
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.sweeps import HERE, PUBLISHED_RESULTS, SWEEPS, load_sweep
from torch.nn import functional

import mnet
from mnet.files import write_atomic
from mnet.latency.timing import synchronise
from mnet.models.cost import cost
from mnet.provenance import provenance
from mnet.studies import Trial
from mnet.studies.engines.packing import hand_out
from mnet.studies.runs.store import RUNS
from mnet.studies.study import list_studies
from mnet.tasks.module import make_optimizer
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import recipe

ROOT = HERE.parent
DOCUMENT = ROOT / "docs/scaling.md"
PAPERS = {"mobilenet_v1": "v1", "mobilenet_v2": "v2", "mobilenet_v3_large": "v3", "mobilenet_v3_small": "v3"}
"""Network -> the recipe of its paper. Networks without one are left out."""
RESOLUTION, TRAIN_IMAGES = 224, 1_281_167
"""Resolution and number of training images of ImageNet."""
SEEDS = 3
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MEASURE_SECONDS = 12.0
"""Per network."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """The device to measure."""
    batch_size: int | None = None
    """Batch size of the measurement; None = 16, or 256 on a GPU."""
    write: bool = False
    """Put the tables into docs/scaling.md."""

    def __post_init__(self) -> None:
        check_positive(self, "batch_size")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = read_arguments(arguments).options
    batch_size = options.batch_size or (256 if options.device.startswith("cuda") else 16)
    speeds = {model: images_per_second(model, options.device, batch_size) for model in PAPERS}
    trials = imagenet_trials()
    hours = {trial.run_id: device_hours(trial, speeds) for trial in trials}
    hardware = provenance(torch.device(options.device))
    tables = {
        "speeds": speed_table(speeds, hardware, batch_size),
        "imagenet": cost_table(trials, hours),
        "spread": spread_table(list(hours.values()), published_seconds()),
    }
    for table in tables.values():
        print(f"{table}\n")
    if options.write:
        text = fill_marks(DOCUMENT.read_text(), tables.__getitem__)
        write_atomic(DOCUMENT, lambda stream: stream.write(text.encode()))
        print(f"  {DOCUMENT.relative_to(ROOT)}")
    return 0


def images_per_second(model: str, device: str, batch_size: int) -> float:
    """Training throughput at 224 px on one device (one thread of a CPU), with the images already on it."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = mnet.create_model(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = make_optimizer(net, recipe(PAPERS[model]))
        images = torch.randn(batch_size, 3, RESOLUTION, RESOLUTION, device=device).to(memory_format=torch.channels_last)
        labels, steps, start = torch.randint(1000, (batch_size,), device=device), -1, 0.0
        while steps < 2 or time.perf_counter() - start < MEASURE_SECONDS:
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            synchronise(device)
            steps += 1
            if not steps:  # the first step is not timed
                start = time.perf_counter()
        return steps * batch_size / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def imagenet_trials() -> list[Trial]:
    """Every fp32 classifier of every study, each once, on ImageNet with its paper's recipe."""
    trials: dict[str, Trial] = {}
    for name in list_studies(SWEEPS):
        for _, trial in load_sweep(name, "full", SEEDS).trials:
            if trial.task.name == "classification" and trial.precision == "fp32" and trial.model in PAPERS:
                scaled = at_imagenet_scale(trial)
                trials.setdefault(scaled.run_id, scaled)
    return list(trials.values())


def at_imagenet_scale(trial: Trial) -> Trial:
    """The same trial on ImageNet with the paper's strides and recipe.

    A width solved for `target_madds` is kept; a resolution that a study sets becomes the same fraction of 224.
    """
    width = trial.width if trial.target_madds is None else trial.solved_width()
    share = None if trial.resolution is None else trial.resolution / trial.dataset_class().native_resolution
    return replace(
        replace(trial, total_stride=None, epochs=None, batch_size=None, lr=None, target_madds=None, resolution=None),
        dataset="imagenet",
        recipe=PAPERS[trial.model],
        width=width,
        resolution=None if share is None else round(RESOLUTION * share),
    )


def device_hours(trial: Trial, speeds: Mapping[str, float]) -> float:
    """Hours on one device, scaled from the paper's network by the activations written and read."""
    spec = trial.input_spec()
    network = trial.network(spec.num_classes, spec.in_channels)
    activations, papers_activations = (
        sum(row.out_channels * row.resolution**2 for row in cost(one, resolution).rows)
        for one, resolution in ((network, spec.resolution), (mnet.describe(trial.model), RESOLUTION))
    )
    epochs = trial.full_recipe().epochs
    return epochs * TRAIN_IMAGES * activations / papers_activations / speeds[trial.model] / 3600


def published_seconds() -> list[float]:
    """Training times of every published run of the quick profile."""
    tables = [pd.read_csv(path) for path in sorted(PUBLISHED_RESULTS.glob(f"*/{RUNS}"))]
    seconds = pd.concat(tables).drop_duplicates("run_id")["train_seconds"]
    return list(map(float, seconds))


def speed_table(speeds: Mapping[str, float], hardware: Mapping[str, object], batch_size: int) -> str:
    """Images per second, and hours per epoch of ImageNet, by network."""
    rows = [[model, f"{speed:.1f}", f"{TRAIN_IMAGES / speed / 3600:.1f}"] for model, speed in speeds.items()]
    table = pipe_table(("network", "images a second", "hours an epoch of ImageNet"), rows)
    where = f"{hardware['device']}, torch {hardware['torch']}, batch {batch_size}, revision {hardware['revision']}"
    return f"{table}\n\nMeasured on: {where}."


def cost_table(trials: Sequence[Trial], hours: Mapping[str, float]) -> str:
    """Runs, epochs and device hours by network."""
    rows = []
    for model, paper in PAPERS.items():
        durations = [hours[trial.run_id] for trial in trials if trial.model == model]
        epochs = recipe(paper).epochs
        rows.append(
            [model, f"{len(durations)}", f"{epochs}", f"{sum(durations):,.0f}", f"{max(durations, default=0):,.0f}"]
        )
    total = list(hours.values())
    rows.append(["all", f"{len(total)}", "", f"{sum(total):,.0f}", f"{max(total):,.0f}"])
    return pipe_table(("networks of", "runs", "epochs", "device hours", "longest run"), rows)


def spread_table(hours: Sequence[float], quick: Sequence[float]) -> str:
    """Wall time by number of workers: of all runs on ImageNet in hours, of the published quick runs in minutes."""
    rows = []
    for workers in WORKERS:
        row = [f"{workers}"]
        for durations, unit in ((hours, 1.0), (quick, 60.0)):
            end = hand_out(durations, workers)
            row += [f"{end / unit:,.1f}", f"{sum(durations) / workers / end:.0%}"]
        rows.append(row)
    heads = ("workers", "ImageNet, hours", "busy", f"{len(quick)} quick runs, minutes", "busy")
    return pipe_table(heads, rows)


if __name__ == "__main__":
    sys.exit(main())

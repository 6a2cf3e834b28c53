"""How many seconds and bytes a trial will take, estimated from the cost of its network and from timed runs.

The time of a batch is a sum of four terms: multiply-adds, activations that are written and read, weights that are
updated, and layer calls. The four rates are fitted to finished runs; with few runs, they stay close to the
defaults, scaled to the speed of this machine.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mnet.errors import ConfigError, DataError
from mnet.files import load_yaml
from mnet.models.cost import cost
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.runs.store import CONFIG, RESULT, read_json, runs_with_result
from mnet.studies.trial import Trial

Rates = tuple[float, float, float, float]
"""Seconds per multiply-add, activation element, parameter update and layer call."""

DEFAULT_RATES: Rates = (2.05e-11, 5.74e-9, 1.02e-8, 2.26e-4)
"""Source: 18 networks of the family at 16 and 28 px, batch 96, one thread of an AMD EPYC with 2 cores, torch 2.14,
fitted within 13%, then scaled to two processes side by side (V3-Small: 55 s for the recipe `quick`)."""

PRIOR_WEIGHT = 0.3
"""Pull of the scaled defaults on the rates: as strong as one run with a relative error of 1 / PRIOR_WEIGHT."""

START_SECONDS = 2.0
EXPORT_SECONDS = 10.0
"""Time to build the int8 graph of a network and write it."""
FORWARD = 1 / 3
"""Time of an image in evaluation, relative to a training image."""
INT8_TRAINING = 2.5
"""Time of a training image with int8 rounding simulated, relative to one without."""
INT8_EVALUATION = 5
"""Time of an evaluated image in an int8 graph, computed in float, relative to the fp32 network. Source, also of
INT8_TRAINING and EXPORT_SECONDS: V2 and V3-Small at 28 px on the machine above."""
BF16 = 3.2
"""Time relative to fp32, on a CPU without instructions for bf16. Source: `results/published/bench.csv`."""

TEST_SHARE = 1 / 6
"""Test images per training image, assumed for all data sets: as in Fashion-MNIST."""
UNKNOWN_IMAGES = 10_000
"""Training images assumed for a folder that does not exist yet."""

BASE_BYTES = 880 * 2**20
"""Python, torch and Lightning, and what training allocates for any network. Source: peaks of nine trials in fresh
processes on a CPU (V1, V2, V3; 852 to 1914 MiB), which `trial_bytes` exceeds by 5 to 26%."""
WEIGHT_COPIES = 6
"""Weights, gradients, momentum, a second moment or an average, and a checkpoint being written."""
ACTIVATION_COPIES = 4.5
"""Copies of a layer's output: convolution, batch norm and activation keep one each for backward, plus gradients."""
SCORE_COPIES = 3
"""How often per-pixel scores are written and read, counted as activations: in resizing, the loss, and backward. Source:
LR-ASPP at 96 px on the machine above."""
PIXEL_COPIES = 2
"""Copies of images in memory: as read, and as split."""

PACK_THRESHOLD, PACK_GAIN = 0.11, 1.2
"""Seeds trained as one network save layer calls, but slow down matrix products: the share of a step's time in calls
above which packing is faster, and the speed-up per share above it. Source: `results/published/bench.csv`."""


@dataclass(frozen=True)
class Workload:
    """The numbers that determine a trial's time and memory."""

    images: int
    """Training images, over all epochs."""
    evaluated: int
    """Validation and test images, over all epochs."""
    batch: int
    madds: int
    activations: int
    """Elements of all layers' outputs, for one image."""
    params: int
    layers: int
    pixels: int
    """Bytes of the images in memory. Images on disk count too, so that they stay in the system's cache."""

    def terms(self, images: float) -> np.ndarray:
        """The factors of `Rates`, (4,), for this number of training images."""
        steps = images / self.batch
        return np.array([self.madds * images, self.activations * images, self.params * steps, self.layers * steps])

    def seconds(self, images: float, rates: Rates) -> float:
        """The time for this number of training images."""
        return float(self.terms(images) @ np.array(rates))


@cache
def workload(trial: Trial) -> Workload:
    """
    Raises:
        ConfigError: Its data set is unknown.
    """
    data = trial.input_spec()
    network = trial.network(data.num_classes, data.in_channels)
    train, held_out = count_images(trial.dataset, trial.data_dir)
    test = round(train * TEST_SHARE)
    recipe = trial.full_recipe()
    network_cost = cost(network, data.resolution)
    scores = SCORE_COPIES * data.num_classes * data.resolution**2 if trial.task.dense else 0
    epoch = min(train - held_out, (recipe.epoch_steps or train) * recipe.batch_size)
    return Workload(
        images=recipe.epochs * epoch,
        evaluated=(recipe.epochs + 1) * held_out + (test if trial.tested else 0),
        batch=recipe.batch_size,
        madds=network_cost.madds,
        activations=sum(row.out_channels * row.resolution**2 for row in network_cost.rows) + scores,
        params=network_cost.params,
        layers=len(network_cost.rows),
        pixels=(train + test) * network.in_channels * data.resolution**2,
    )


@cache
def count_images(dataset: str, data_dir: Path) -> tuple[int, int]:
    """Training images, and how many of them are held out for validation."""
    from mnet.data import dataset_class
    from mnet.data.folders import VAL_SHARE, list_folder

    data = dataset_class(dataset)
    if data.train_size is not None:
        return data.train_size, data.settings_type.val_size
    try:
        train = len(list_folder(data_dir).train_and_val)
    except (DataError, OSError):
        train = UNKNOWN_IMAGES
    return train, round(train * VAL_SHARE)


def trial_seconds(trial: Trial, rates: Rates = DEFAULT_RATES) -> float:
    """How long a trial takes: start, training and evaluation; for int8 without the fp32 run that it starts from."""
    work = workload(trial)
    trained, evaluated, start = float(work.images), FORWARD * work.evaluated, START_SECONDS
    if trial.precision == "bf16":
        trained, evaluated = BF16 * trained, BF16 * evaluated
    if trial.quantized:
        trained, evaluated, start = INT8_TRAINING * trained, INT8_EVALUATION * evaluated, start + EXPORT_SECONDS
    return start + work.seconds(trained + evaluated, rates)


def pack_seconds(trials: Sequence[Trial], rates: Rates = DEFAULT_RATES) -> float:
    """How long trials that differ only in their seed take as one network."""
    terms = workload(trials[0]).terms(1.0) * np.array(rates)
    calls = float(terms[3] / terms.sum())
    gain = 1 + PACK_GAIN * (calls - PACK_THRESHOLD) * (1 - 1 / len(trials))
    return START_SECONDS + sum(trial_seconds(trial, rates) - START_SECONDS for trial in trials) / gain


def total_seconds(trials: Sequence[Trial], rates: Rates = DEFAULT_RATES) -> float:
    """How long trials take one after another; a run that several of them share is counted once."""
    return sum(trial_seconds(trial, rates) for trial in {trial.run_id: trial for trial in trials}.values())


def trial_bytes(trial: Trial) -> int:
    """The peak memory of a process that trains this trial; if wrong, too high rather than too low."""
    work = workload(trial)
    weights = 4 * WEIGHT_COPIES * work.params
    activations = 4 * ACTIVATION_COPIES * work.activations * work.batch
    return round(BASE_BYTES + PIXEL_COPIES * work.pixels + weights + activations)


def pack_bytes(trials: Sequence[Trial]) -> int:
    """The peak memory of a process that trains these as one network."""
    base = BASE_BYTES + PIXEL_COPIES * workload(trials[0]).pixels if trials else 0
    return base + sum(trial_bytes(trial) - base for trial in trials)


def fit_rates(timed: Iterable[tuple[Workload, float]]) -> Rates:
    """The rates fitted to workloads and their training seconds.

    Non-negative least squares of relative errors: one equation per distinct workload (the median of its times), and
    four more that hold the rates near the defaults, scaled to the median of all.
    """
    from scipy.optimize import nnls  # slow to import, and processes on a cluster do not need it

    times: dict[Workload, list[float]] = defaultdict(list)
    for work, seconds in timed:
        times[work].append(seconds)
    if not times:
        return DEFAULT_RATES
    terms = np.stack([work.terms(work.images) / statistics.median(seconds) for work, seconds in times.items()])
    prior = np.array(DEFAULT_RATES) / np.median(terms @ np.array(DEFAULT_RATES))
    equations = np.concatenate([terms, PRIOR_WEIGHT * np.diag(1 / prior)])
    targets = np.concatenate([np.ones(len(terms)), np.full(4, PRIOR_WEIGHT)])
    first, second, third, fourth = (float(rate) for rate in nnls(equations, targets)[0])
    return first, second, third, fourth


def timed_runs(root: Path, published: Path | None = None) -> list[tuple[Workload, float]]:
    """Workloads and training seconds of the fp32 runs in a results folder; if it has none, of a published `runs.csv`.
    Unreadable runs are skipped."""
    runs = [run for folder in runs_with_result(root) if (run := _timed_run(folder)) is not None]
    return runs or (_published_runs(published) if published is not None and published.is_file() else [])


def _timed_run(folder: Path) -> tuple[Workload, float] | None:
    result = read_json(folder / RESULT)
    try:
        settings = load_yaml(folder / CONFIG)
        if result is None or settings.get("precision", "fp32") != "fp32":
            return None
        return _timed(settings, result["train_seconds"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _published_runs(path: Path) -> list[tuple[Workload, float]]:
    import pandas as pd

    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        return [
            _timed({str(name): value for name, value in row.items()}, row["train_seconds"])
            for row in rows
            if row.get("precision", "fp32") == "fp32"
        ]
    except (ConfigError, KeyError, ValueError):
        return []


def _timed(settings: dict[str, object], seconds: object) -> tuple[Workload, float]:
    trial = trial_from({name: settings[name] for name in PARAMETERS if name in settings})
    return workload(trial), float(str(seconds))

"""What a trial will take: seconds and memory, from its network's cost and from runs that were timed.

Training a batch takes time for multiply-adds, for the activations that are written and read, for the weights that
are updated, and for each layer's own call. The four rates are fitted to finished runs; where those are few, they
stay near the defaults, scaled to this machine.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import nnls

from mnet.errors import ConfigError, DataError
from mnet.models.cost import cost
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.runs.store import CONFIG, RESULT, read_json
from mnet.studies.trial import Trial

Rates = tuple[float, float, float, float]
"""Seconds for a multiply-add, for an element of an activation, for a parameter's update, for a layer's call."""

DEFAULT_RATES: Rates = (2.05e-11, 5.74e-9, 1.02e-8, 2.26e-4)
"""Source: 18 networks of the family at 16 and 28 px, batch 96, one thread of an AMD EPYC with 2 cores, torch 2.14,
fitted within 13%, then scaled to two processes side by side (V3-Small: 55 s for the recipe `quick`)."""

TRUST = 0.3
"""How strongly rates are held near the scaled defaults: as one run that is predicted within 1 / TRUST of itself."""

FORWARD = 1 / 3
"""Of the time of a training image: an image that is only evaluated."""

ROUNDING = 2.5
"""Of the time of a training image: one that is trained on with int8 rounding simulated."""
ROUNDED = 5
"""Of the time of an evaluated image: one that goes through an int8 graph, computed in float. Source: V2 and V3-Small at
28 px on the machine below; so is EXPORT_SECONDS."""
EXPORT_SECONDS = 10.0
"""To make an int8 graph of a network and to write it."""

IN_BF16 = 3.2
"""Of the time in fp32, on a CPU that has no units for bf16. Source: `results/published/bench.csv`."""

START_SECONDS = 2.0
TEST_SHARE = 1 / 6
"""Test images over training images, where only the images tell: Fashion-MNIST's."""
UNKNOWN_IMAGES = 10_000
"""Training images of a folder that is not there yet."""

BASE_BYTES = 880 * 2**20
"""Python, torch and Lightning, imported, and what training allocates whatever the network. Source: peaks of nine
trials in fresh processes on a CPU (V1, V2, V3; 852 to 1914 MiB), which `memory_bytes` exceeds by 5 to 26%."""
WEIGHT_COPIES = 6
"""Weights, gradients, momentum, a second moment or an average, and a checkpoint being written."""
ACTIVATION_COPIES = 4.5
"""Of a layer's output: convolution, batch norm and activation keep one each for backward; gradients come on top."""
PACK_FROM, PACK_GAIN = 0.11, 1.2
"""Seeds trained as one network save calls of layers and pay in products of matrices: the share of calls in a step from
which that pays, and how much more so with every share beyond. Source: `results/published/bench.csv`."""
SCORES = 3
"""Times that the scores of every pixel are written and read, as activations are: enlarged, in the loss, and back.
Source: LR-ASPP at 96 px on the machine above."""
PIXEL_COPIES = 2
"""Of images in memory: as they are read, and as they are split."""


@dataclass(frozen=True)
class Load:
    """A trial in numbers that time and memory follow from."""

    images: int
    """Trained on, over all epochs."""
    evaluated: int
    """Validated and tested on, over all epochs."""
    batch: int
    madds: int
    activations: int
    """Elements of all layers' outputs, for one image."""
    params: int
    layers: int
    pixels: int
    """Bytes of the images, where they are held in memory."""

    def terms(self, images: float) -> np.ndarray:
        """What the `Rates` multiply, (4,), for so many training images."""
        steps = images / self.batch
        return np.array([self.madds * images, self.activations * images, self.params * steps, self.layers * steps])


@cache
def load(trial: Trial) -> Load:
    """Count a trial.

    Raises:
        ConfigError: Its data set is unknown.
    """
    seen = trial.input_spec()
    network = trial.network(seen.num_classes, seen.in_channels)
    train, held_out, in_memory = count_images(trial.dataset, trial.data_dir)
    test = round(train * TEST_SHARE)
    recipe = trial.full_recipe()
    spent = cost(network, seen.resolution)
    pixels = SCORES * seen.num_classes * seen.resolution**2 if trial.task.dense else 0
    epoch = min(train - held_out, (recipe.epoch_steps or train) * recipe.batch_size)
    return Load(
        images=recipe.epochs * epoch,
        evaluated=(recipe.epochs + 1) * held_out + (test if trial.tested else 0),
        batch=recipe.batch_size,
        madds=spent.madds,
        activations=sum(row.out_channels * row.resolution**2 for row in spent.rows) + pixels,
        params=spent.params,
        layers=len(spent.rows),
        pixels=(train + test) * network.in_channels * seen.resolution**2 if in_memory else 0,
    )


@cache
def count_images(dataset: str, data_dir: Path) -> tuple[int, int, bool]:
    """Images in train, how many of these are for validation, and whether they are held in memory."""
    from mnet.data import DATASETS
    from mnet.data.folders import VAL_SHARE, list_images
    from mnet.data.in_memory import InMemoryImages

    data = DATASETS[dataset]
    if data.train_size is not None:
        return data.train_size, data.settings_type.val_size, issubclass(data, InMemoryImages)
    folder = data_dir / "train"
    try:
        train = len(list_images(folder if folder.is_dir() else data_dir)[1])
    except (DataError, OSError):
        train = UNKNOWN_IMAGES
    return train, round(train * VAL_SHARE), issubclass(data, InMemoryImages)


def seconds(trial: Trial, rates: Rates = DEFAULT_RATES) -> float:
    """How long a trial will take, training, evaluation and start; of int8, what comes after the fp32 run."""
    counted = load(trial)
    trained, evaluated, start = float(counted.images), FORWARD * counted.evaluated, START_SECONDS
    if trial.precision == "bf16":
        trained, evaluated = IN_BF16 * trained, IN_BF16 * evaluated
    if trial.quantized:
        trained, evaluated, start = ROUNDING * trained, ROUNDED * evaluated, start + EXPORT_SECONDS
    return start + float(counted.terms(trained + evaluated) @ np.array(rates))


def memory_bytes(trial: Trial) -> int:
    """The peak memory of a process that trains this trial, more rather than less."""
    counted = load(trial)
    weights = 4 * WEIGHT_COPIES * counted.params
    activations = 4 * ACTIVATION_COPIES * counted.activations * counted.batch
    return round(BASE_BYTES + PIXEL_COPIES * counted.pixels + weights + activations)


def pack_bytes(trials: Sequence[Trial]) -> int:
    """Of a process that trains these as one network."""
    base = BASE_BYTES + PIXEL_COPIES * load(trials[0]).pixels if trials else 0
    return base + sum(memory_bytes(trial) - base for trial in trials)


def pack_seconds(trials: Sequence[Trial], rates: Rates = DEFAULT_RATES) -> float:
    """How long trials that differ in their seed alone take as one network."""
    counted, count = load(trials[0]), len(trials)
    calls = counted.terms(1.0)[3] * rates[3] / float(counted.terms(1.0) @ np.array(rates))
    gain = 1 + PACK_GAIN * (calls - PACK_FROM) * (1 - 1 / count)
    return START_SECONDS + sum(seconds(trial, rates) - START_SECONDS for trial in trials) / gain


def fit_rates(timed: Iterable[tuple[Load, float]]) -> Rates:
    """Rates from loads and the seconds that their training took.

    Non-negative least squares of relative errors, one equation a distinct load (the median of its times), and four
    more that hold the rates near the defaults, scaled to the median of all.
    """
    times: dict[Load, list[float]] = defaultdict(list)
    for counted, taken in timed:
        times[counted].append(taken)
    if not times:
        return DEFAULT_RATES
    terms = np.stack([counted.terms(counted.images) / statistics.median(taken) for counted, taken in times.items()])
    near = np.array(DEFAULT_RATES) / np.median(terms @ np.array(DEFAULT_RATES))
    equations = np.concatenate([terms, TRUST * np.diag(1 / near)])
    wanted = np.concatenate([np.ones(len(terms)), np.full(4, TRUST)])
    first, second, third, fourth = (float(rate) for rate in nnls(equations, wanted)[0])
    return first, second, third, fourth


def timed_runs(root: Path, published: Path | None = None) -> list[tuple[Load, float]]:
    """Loads and training times of the finished runs below a results folder; of a published `runs.csv` where there
    are none. What cannot be read is left out."""
    found = [run for path in sorted(root.glob(f"*/runs/*/{RESULT}")) if (run := timed_run(path.parent)) is not None]
    return found or (published_runs(published) if published is not None and published.is_file() else [])


def timed_run(folder: Path) -> tuple[Load, float] | None:
    result = read_json(folder / RESULT)
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text())
        if result is None or settings.get("precision", "fp32") != "fp32":
            return None
        return timed(settings, result["train_seconds"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def published_runs(path: Path) -> list[tuple[Load, float]]:
    import pandas as pd

    rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    try:
        return [
            timed({str(name): value for name, value in row.items()}, row["train_seconds"])
            for row in rows
            if row.get("precision", "fp32") == "fp32"
        ]
    except (ConfigError, KeyError, ValueError):
        return []


def timed(settings: dict[str, object], taken: object) -> tuple[Load, float]:
    trial = trial_from({name: settings[name] for name in PARAMETERS if name in settings})
    return load(trial), float(str(taken))


def total_seconds(trials: Sequence[Trial], rates: Rates = DEFAULT_RATES) -> float:
    """Of trials one after another; a run that several of them share is counted once."""
    return sum(seconds(trial, rates) for trial in {trial.run_id: trial for trial in trials}.values())

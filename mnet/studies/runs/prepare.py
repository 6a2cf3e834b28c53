"""What a run trains, and the images it trains on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import cast

import lightning as L
import torch
from torch import Tensor

from mnet.data import DATASETS, Augment, ImageData, create_data
from mnet.data.module import InMemoryImages
from mnet.models.network import MobileNet
from mnet.models.spec import Network
from mnet.quantization import CALIBRATION_BATCH, prepare, quantize
from mnet.studies.runs.start import begin_from
from mnet.studies.runs.store import (
    WEIGHTS,
)
from mnet.studies.trial import Trial
from mnet.tasks.module import TaskModule
from mnet.training.arithmetic import check_precision
from mnet.training.recipes import Recipe

CALIBRATION = 512
"""Training images that the ranges of an int8 network are seen on."""


def prepare_run(trial: Trial, data: ImageData | None, start: Path | None = None) -> tuple[TaskModule, ImageData]:
    """What is trained, as the seed draws it, and its images, which are read where they are not given."""
    check_precision(trial.precision)
    recipe = trial.full_recipe()
    own = augmentation(trial, recipe)
    data = load_data(trial, recipe) if data is None else data.for_run(recipe.batch_size, trial.seed, own)
    L.seed_everything(trial.seed, verbose=False)
    network = trial.network(data.num_classes, data.in_channels)
    return build_model(trial, network, recipe, data, start), data


def build_model(trial: Trial, network: Network, recipe: Recipe, data: ImageData, start: Path | None) -> TaskModule:
    """What is trained and tested: a new network; or that of the fp32 run in `start`, in int8 or about to be."""
    model = trial.task.load()(network, recipe)
    if not trial.quantized:
        if trial.pretrained is not None:
            model.start = begin_from(trial.pretrained, cast(MobileNet, model.net))
        return model
    from mnet.tasks.classification import QuantizedClassifier

    assert start is not None
    assert isinstance(model.net, MobileNet)
    model.net.load_state_dict(torch.load(start / WEIGHTS, map_location="cpu", weights_only=True))
    seen = calibration_images(data, trial.seed)
    if trial.precision == "int8-qat":
        return QuantizedClassifier(network, recipe, prepare(model.net, seen, training=True))
    model.net = quantize(model.net, seen)
    return model


def calibration_images(data: ImageData, seed: int) -> Tensor:
    """The first `CALIBRATION` images of training, as the seed shuffles them, not augmented where they are in memory:
    (N, C, H, W)."""
    loader = data.for_run(CALIBRATION_BATCH, seed, Augment(flip=False)).train_dataloader()
    batches = [images for images, _ in islice(iter(loader), CALIBRATION // CALIBRATION_BATCH)]
    return torch.cat(batches)


def augmentation(trial: Trial, recipe: Recipe) -> Augment | None:
    """None = the data set's own; streamed photographs are always cropped at random."""
    in_memory = issubclass(DATASETS.get(trial.dataset, ImageData), InMemoryImages)
    return Augment(flip=False) if in_memory and not recipe.augment else None


def load_data(trial: Trial, recipe: Recipe) -> ImageData:
    """The trial's data set, read and split."""
    settings: dict[str, object] = {"batch_size": recipe.batch_size, "seed": trial.seed}
    if (augment := augmentation(trial, recipe)) is not None:
        settings["augment"] = augment
    data = create_data(trial.dataset, **trial.data_settings(), **settings)
    data.prepare_data()
    data.setup("fit")
    return data

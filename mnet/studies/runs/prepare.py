"""The module that a run trains, and the images it trains on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import cast

import lightning as L
import torch
from torch import Tensor

from mnet.data import ImageData
from mnet.data.augment import UNCHANGED
from mnet.models.network import MobileNet
from mnet.models.spec import Network
from mnet.quantization import CALIBRATION_BATCH, prepare, quantize
from mnet.studies.runs.images import load_data
from mnet.studies.runs.start import load_pretrained, load_state, read_weights
from mnet.studies.runs.store import WEIGHTS
from mnet.studies.trial import Trial
from mnet.tasks.module import TaskModule
from mnet.training.arithmetic import check_precision
from mnet.training.recipes import Recipe

CALIBRATION_IMAGES = 512
"""Training images that set the activation ranges of an int8 network."""


def prepare_run(trial: Trial, data: ImageData | None, start: Path | None = None) -> tuple[TaskModule, ImageData]:
    """The module to train, initialised from the seed, and its data.

    Args:
        trial: What to train.
        data: The trial's data set, already read; None reads it.
        start: The folder of the finished fp32 run, for an int8 one.
    """
    check_precision(trial.precision)
    recipe = trial.full_recipe()
    if data is None:
        data = load_data(trial, recipe)
    else:
        data = data.for_run(recipe.batch_size, trial.seed, data.augmentation(recipe.augment))
    L.seed_everything(trial.seed, verbose=False)
    network = trial.network(data.num_classes, data.in_channels)
    return _build_module(trial, network, recipe, data, start), data


def calibration_images(data: ImageData, seed: int) -> Tensor:
    """The first `CALIBRATION_IMAGES` training images in the seed's order, not augmented: (N, C, H, W)."""
    loader = data.for_run(CALIBRATION_BATCH, seed, UNCHANGED).train_dataloader()
    batches = [images for images, _ in islice(iter(loader), CALIBRATION_IMAGES // CALIBRATION_BATCH)]
    return torch.cat(batches)


def _build_module(trial: Trial, network: Network, recipe: Recipe, data: ImageData, start: Path | None) -> TaskModule:
    """A new network, or the network of the fp32 run in `start`, quantized or prepared for quantization."""
    module = trial.task.load()(network, recipe)
    if not trial.quantized:
        if trial.pretrained is not None:
            module.start = load_pretrained(trial.pretrained, cast(MobileNet, module.net), trial.model)
        return module
    from mnet.tasks.classification import QuantizedClassifier

    assert start is not None
    assert isinstance(module.net, MobileNet)
    load_state(module.net, read_weights(start / WEIGHTS), start / WEIGHTS)
    images = calibration_images(data, trial.seed)
    if trial.precision == "int8-qat":
        return QuantizedClassifier(network, recipe, prepare(module.net, images, training=True))
    module.net = quantize(module.net, images)
    return module

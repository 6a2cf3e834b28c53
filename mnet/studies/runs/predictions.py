"""A finished run as a predictor: its network with trained weights, and how images are prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from mnet.data import create_data
from mnet.data.module import Description
from mnet.data.published_files import MEAN, STD
from mnet.errors import ConfigError
from mnet.models.network import MobileNet
from mnet.studies.runs.start import load_state, read_trained
from mnet.studies.runs.store import IMAGES, WEIGHTS, read_images
from mnet.studies.trial import Trial
from mnet.tasks.module import TaskModule
from mnet.weights.load import open_weights


@dataclass(frozen=True)
class Predictor:
    """A trained network, with what its data set defines: classes, normalisation and resolution."""

    trial: Trial
    model: TaskModule
    names: Sequence[str]
    mean: Tensor
    std: Tensor
    """Like `mean` (C, 1, 1), of pixels scaled to [0, 1]."""
    resolution: int

    @torch.no_grad()
    def predict(self, image: Image.Image) -> Any:
        """The prediction for an image, in its own pixel coordinates; the type depends on the task's module."""
        fitted = self.model.fit_image(image.convert("L" if len(self.mean) == 1 else "RGB"), self.resolution)
        images = ((TF.pil_to_tensor(fitted) / 255 - self.mean) / self.std).unsqueeze(0)
        (prediction,) = self.model.predict(images.to(memory_format=torch.channels_last))
        return self.model.resize_prediction(prediction, (images.shape[2], images.shape[3]), (image.height, image.width))


def load_predictor(folder: Path) -> Predictor:
    """The network of a finished run, and how images are prepared for it; from the run's folder alone.

    Args:
        folder: The folder of the run, with config.yaml, images.json, weights.pt and result.json.

    Raises:
        ConfigError: The run is not finished, its files are missing, or it is an int8 run.
    """
    trial, state = read_trained(folder)
    images = _description(trial, folder)
    names = images["label_names"]
    model = trial.task.load()(trial.network(len(names), images["in_channels"]), trial.full_recipe())
    assert isinstance(model.net, MobileNet)
    load_state(model.net, state, folder / WEIGHTS)
    mean, std = (torch.tensor(images[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return Predictor(trial, model.eval(), names, mean, std, images["resolution"])


def load_weights_predictor(path: Path) -> Predictor:
    """The classifier in a file of weights, with images prepared as for ImageNet, at 224 pixels.

    Args:
        path: As for `mnet.load_weights`.

    Raises:
        ConfigError: The file has no weights of a published classifier.
    """
    net, source = open_weights(path)
    trial = Trial(model=net.network.name, dataset="imagenet")
    model = trial.task.load()(net.network, trial.full_recipe())
    model.net = net
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    if net.network.in_channels == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    print(source)
    return Predictor(
        trial, model.eval(), class_names(net.network.num_classes), mean, std, trial.input_spec().resolution
    )


def class_names(count: int) -> Sequence[str]:
    """ImageNet's names for 1,000 classes; otherwise numbered ones, since weights do not contain names."""
    if count == 1000:
        from torchvision.models import MobileNet_V2_Weights

        return [str(name) for name in MobileNet_V2_Weights.DEFAULT.meta["categories"]]
    return [f"class {i}" for i in range(count)]


def _description(trial: Trial, folder: Path) -> Description:
    """The description of a run's images; for runs of earlier versions, which kept none, the published data set's.

    Raises:
        ConfigError: The names of the classes are unknown.
    """
    if (kept := read_images(folder)) is not None:
        return kept
    data = create_data(trial.dataset, **trial.data_settings())
    if data.is_users:
        raise ConfigError(f"{folder} has no {IMAGES}, which holds the names of its classes; train the run again")
    if data.named_by_files:
        data.class_names = tuple(f"class {i}" for i in range(trial.input_spec().num_classes))
    return data.description()

"""A finished run as a predictor: its network with trained weights, and how an image becomes its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from mnet.data import ImageData, create_data
from mnet.errors import ConfigError, DataError
from mnet.models.network import MobileNet
from mnet.studies.runs.start import read_trained
from mnet.studies.trial import USER_DATASETS, Trial
from mnet.tasks.module import TaskModule


@dataclass(frozen=True)
class Predictor:
    """A trained network, with what its data set defines: classes, normalisation and resolution."""

    trial: Trial
    model: TaskModule
    names: Sequence[str]
    mean: Tensor
    std: Tensor
    """(C, 1, 1), of pixels scaled to [0, 1]."""
    resolution: int

    @torch.no_grad()
    def predict(self, image: Image.Image) -> Any:
        """The prediction for an image, in its own pixel coordinates; the type depends on the task's module."""
        fitted = self.model.fit_image(image.convert("L" if len(self.mean) == 1 else "RGB"), self.resolution)
        images = ((TF.pil_to_tensor(fitted) / 255 - self.mean) / self.std).unsqueeze(0)
        (prediction,) = self.model.predict(images.to(memory_format=torch.channels_last))
        return self.model.resize_prediction(prediction, (images.shape[2], images.shape[3]), (image.height, image.width))


def load_predictor(folder: Path) -> Predictor:
    """The network of a finished run.

    Args:
        folder: The run's, with its config.yaml, weights.pt and result.json.

    Raises:
        ConfigError: The run is not finished, its weights are missing, or it is an int8 run.
    """
    trial, state = read_trained(folder)
    data = _named_data(trial)
    network = trial.network(len(data.label_names), state["stem.conv.weight"].shape[1])
    model = trial.task.load()(network, trial.full_recipe())
    assert isinstance(model.net, MobileNet)
    model.net.load_state_dict(state)
    return Predictor(trial, model.eval(), data.label_names, *data.normalisation, data.resolution)


def _named_data(trial: Trial) -> ImageData:
    """The trial's data set with the names of its classes; its files are read only if the names are in them.

    Raises:
        ConfigError: The classes are named by the user's folders, which are missing.
    """
    data = create_data(trial.dataset, **trial.data_settings())
    if not data.named_by_files:
        return data
    try:
        data.prepare_data()
        if trial.dataset in USER_DATASETS:
            data.setup("fit")
    except DataError as error:
        if trial.dataset in USER_DATASETS:
            raise ConfigError(f"the classes are named by the folders in {trial.data_dir}: {error}") from None
        data.class_names = tuple(f"class {i}" for i in range(trial.input_spec().num_classes))
    return data

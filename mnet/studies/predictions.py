"""A finished run as a predictor: its network with its weights, and how pictures become its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from mnet.data import ImageData, create_data
from mnet.errors import ConfigError, DataError
from mnet.network import MobileNet
from mnet.studies.archive import OWN_PICTURES, read_settings
from mnet.studies.store import WEIGHTS, read_result
from mnet.studies.trial import Trial, trial_from
from mnet.tasks.module import TaskModule


@dataclass(frozen=True)
class Predictor:
    """A trained network, and what its data set says of pictures."""

    trial: Trial
    model: TaskModule
    names: Sequence[str]
    mean: Tensor
    std: Tensor
    """(C, 1, 1), of pixels scaled to [0, 1]."""
    resolution: int

    def input(self, picture: Image.Image) -> Tensor:
        """(C, H, W), normalised. A classifier sees the middle, a detector the whole in a square, a segmenter the whole
        with its aspect, the shorter side at the run's resolution."""
        side = self.resolution
        if self.trial.task.name == "classification":
            picture = ImageOps.fit(picture, (side, side), Image.Resampling.BILINEAR)
        elif self.trial.task.name == "detection":
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        else:
            factor = side / min(picture.size)
            picture = picture.resize([round(factor * one) for one in picture.size], Image.Resampling.BILINEAR)
        return (TF.pil_to_tensor(picture) / 255 - self.mean) / self.std

    @torch.no_grad()
    def predict(self, picture: Image.Image) -> Any:
        """What is seen, in the picture's own pixels; of the kind that the task's module says."""
        images = self.input(picture.convert("L" if len(self.mean) == 1 else "RGB")).unsqueeze(0)
        (seen,) = self.model.predict(images.to(memory_format=torch.channels_last))
        return self.model.onto(seen, (images.shape[2], images.shape[3]), (picture.height, picture.width))


def load_predictor(folder: Path) -> Predictor:
    """The network of a finished run.

    Args:
        folder: The run's: its config.yaml, weights.pt and result.json.

    Raises:
        ConfigError: It is not finished, or its weights are not here, or are of an int8 program.
    """
    if read_result(folder) is None or not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder} is no finished run with its {WEIGHTS}; train it here first")
    trial = trial_from(read_settings(folder)[0])
    if trial.precision != "fp32":
        raise ConfigError(f"{folder} is an {trial.precision} run; its fp32 run has the weights that are read here")
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    data = described(trial)
    network = trial.network(len(data.label_names), state["stem.conv.weight"].shape[1])
    model = trial.task.load()(network, trial.full_recipe())
    assert isinstance(model.net, MobileNet)
    model.net.load_state_dict(state)
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (data.mean, data.std))
    return Predictor(trial, model.eval(), data.label_names, mean, std, data.resolution)


def described(trial: Trial) -> ImageData:
    """The trial's data set, with the names of its classes; read only where nothing else tells.

    Raises:
        ConfigError: They are one's own pictures, and not here.
    """
    settings = {"task": trial.task.name} if len(trial.pictures().tasks) > 1 else {}
    data = create_data(trial.dataset, data_dir=trial.data_dir, resolution=trial.resolution, **settings)
    try:
        if trial.dataset == OWN_PICTURES:
            data.prepare_data()
            data.setup("fit")
        elif trial.dataset in ("coco", "imagenet"):  # whose files name the classes
            data.prepare_data()
    except DataError as error:
        if trial.dataset == OWN_PICTURES:
            raise ConfigError(f"the classes are named by the folders in {trial.data_dir}: {error}") from None
        count = trial.data().num_classes
        data.class_names = tuple(f"class {i}" for i in range(count))
    return data

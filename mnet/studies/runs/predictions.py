"""A finished run as a predictor: its network with its weights, and how images become its input."""

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
from mnet.studies.options import trial_from
from mnet.studies.runs.store import WEIGHTS, read_result, read_settings
from mnet.studies.trial import USER_DATASETS, Trial
from mnet.tasks.module import TaskModule


@dataclass(frozen=True)
class Predictor:
    """A trained network, and what its data set says of images."""

    trial: Trial
    model: TaskModule
    names: Sequence[str]
    mean: Tensor
    std: Tensor
    """(C, 1, 1), of pixels scaled to [0, 1]."""
    resolution: int

    @torch.no_grad()
    def predict(self, image: Image.Image) -> Any:
        """What is seen, in the image's own pixels; of the kind that the task's module says."""
        seen_as = self.model.fitted(image.convert("L" if len(self.mean) == 1 else "RGB"), self.resolution)
        images = ((TF.pil_to_tensor(seen_as) / 255 - self.mean) / self.std).unsqueeze(0)
        (seen,) = self.model.predict(images.to(memory_format=torch.channels_last))
        return self.model.onto(seen, (images.shape[2], images.shape[3]), (image.height, image.width))


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
    if trial.quantized:
        raise ConfigError(f"{folder} is an {trial.precision} run; its fp32 run has the weights that are read here")
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    data = described(trial)
    network = trial.network(len(data.label_names), state["stem.conv.weight"].shape[1])
    model = trial.task.load()(network, trial.full_recipe())
    assert isinstance(model.net, MobileNet)
    model.net.load_state_dict(state)
    return Predictor(trial, model.eval(), data.label_names, *data.normalisation, data.resolution)


def described(trial: Trial) -> ImageData:
    """The trial's data set, with the names of its classes; read only where nothing else tells.

    Raises:
        ConfigError: They are one's own images, and not here.
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

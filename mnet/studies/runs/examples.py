"""Test images with their annotations and predictions, kept with a run; `report.examples` draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mnet.data import ImageData
from mnet.files import write_torch
from mnet.studies.runs.store import EXAMPLES
from mnet.tasks.module import TaskModule

COUNT = 4
"""Test images that a run keeps."""


def keep_examples(model: TaskModule, data: ImageData, folder: Path) -> None:
    """Write the predictions of a tested network for the first test images, if its task has something to draw."""
    if not model.drawable:
        return
    images, target = next(iter(data.test_dataloader()))
    images = images[:COUNT]
    truth = [model.truth(target, i) for i in range(len(images))]
    training, device = model.training, next(model.parameters()).device
    with torch.no_grad():
        seen = model.eval().predict(images.to(device))
    model.train(training)
    mean, std = data.normalisation
    pixels = (255 * (images.cpu() * std + mean)).round().clamp(0, 255).to(torch.uint8).contiguous()
    content = {"images": pixels, "names": list(data.label_names)}
    content |= {"truth": [to_tensors(one) for one in truth], "seen": [to_tensors(one) for one in seen]}
    write_torch(folder / EXAMPLES, content)


def to_tensors(seen: Any) -> Tensor | dict[str, Tensor]:
    """A prediction as tensors only, which can be loaded without running code."""
    if isinstance(seen, Tensor):
        return seen.to("cpu", copy=True)
    return {name: cast(Tensor, value).to("cpu", copy=True) for name, value in seen._asdict().items()}

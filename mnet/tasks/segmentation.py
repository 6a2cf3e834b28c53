"""Segmentation: of which class every pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mnet.data.targets import IGNORED, Masks
from mnet.tasks.drawing import Limit, draw_mask
from mnet.tasks.module import TaskModule

Batch = tuple[Tensor, Masks]
"""Images (N, C, H, W) and the class of every pixel."""


class ASPPSegmenter(TaskModule):
    """Trains a segmenter, with LR-ASPP or R-ASPP, by a `Recipe`; logs `train/loss`, and
    `{val,test}/{miou,pixel_accuracy,loss}`.

    mIoU is the mean over classes of intersection over union, both summed over all images, in percent; the background
    is a class where the data set has one. Pixels that nobody has labelled count nowhere.
    """

    shown = ("miou", "pixel_accuracy")
    drawn = True

    def metrics(self) -> dict[str, Metric]:
        classes = self.network.num_classes
        own: dict[str, Any] = {"validate_args": False, "sync_on_compute": False, "ignore_index": IGNORED}
        return {
            "miou": MulticlassJaccardIndex(classes, average="macro", **own),
            "pixel_accuracy": MulticlassAccuracy(classes, average="micro", **own),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, masks = batch
        return {"loss": loss_of(self.answers(images), masks, self.recipe.label_smoothing)}

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, masks = batch
        scores = self.net(images)
        classes, wanted = scores.argmax(1), masks.classes.long()
        metrics["miou"].update(classes, wanted)
        metrics["pixel_accuracy"].update(classes, wanted)
        metrics["loss"].update(loss_of(scores, masks), len(images))
        return scores

    def predict(self, images: Tensor) -> list[Tensor]:
        """Classes (H, W) uint8."""
        return list(self.net(images).argmax(1).to(torch.uint8).cpu())

    @staticmethod
    def fitted(image: Image.Image, side: int) -> Image.Image:
        """The whole with its aspect, the shorter side scaled."""
        factor = side / min(image.size)
        width, height = (round(factor * one) for one in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)

    @staticmethod
    def truth(target: Masks, image: int) -> Tensor:
        return target.classes[image]

    @staticmethod
    def onto(seen: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        return functional.interpolate(seen[None, None].float(), size=image, mode="nearest-exact")[0, 0].to(torch.uint8)

    @staticmethod
    def draw_on(axes: Axes, seen: Tensor, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        draw_mask(axes, seen.numpy(), names)

    @staticmethod
    def key(seen: Tensor, limit: Limit) -> list[int]:
        return [int(i) for i in seen.unique() if i != IGNORED]

    @staticmethod
    def tell(seen: Tensor, names: Sequence[str], limit: Limit) -> dict[str, object]:
        return {"shares": {names[i]: round(float((seen == i).float().mean()), 6) for i in seen.unique().tolist()}}


def loss_of(scores: Tensor, masks: Masks, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled pixels; 0 where a batch has none."""
    wanted = masks.classes.long()
    total = functional.cross_entropy(
        scores, wanted, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (wanted != IGNORED).sum().clamp_min(1)

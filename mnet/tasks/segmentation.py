"""Segmentation: the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mnet.data.targets import IGNORED, Masks
from mnet.tasks.module import TaskModule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mnet.tasks.drawing import Limit

Batch = tuple[Tensor, Masks]
"""Images (N, C, H, W) and the class of every pixel."""


class ASPPSegmenter(TaskModule):
    """Trains a segmenter, with LR-ASPP or R-ASPP, by a `Recipe`; logs `train/loss` and
    `{val,test}/{miou,pixel_accuracy,loss}`.

    mIoU is the mean over classes of intersection over union, both summed over all images, in percent. The background
    is a class if the data set has one. Unlabelled pixels are ignored everywhere.
    """

    metric_names = ("miou", "pixel_accuracy")
    drawable = True

    def metrics(self) -> dict[str, Metric]:
        classes = self.network.num_classes
        shared: dict[str, Any] = {"validate_args": False, "sync_on_compute": False, "ignore_index": IGNORED}
        return {
            "miou": MulticlassJaccardIndex(classes, average="macro", **shared),
            "pixel_accuracy": MulticlassAccuracy(classes, average="micro", **shared),
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        images, masks = batch
        return {"loss": segmentation_loss(self.run_network(images), masks, self.recipe.label_smoothing)}

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, masks = batch
        scores = self.net(images)
        predicted, expected = scores.argmax(1), masks.classes.long()
        metrics["miou"].update(predicted, expected)
        metrics["pixel_accuracy"].update(predicted, expected)
        metrics["loss"].update(segmentation_loss(scores, masks), len(images))
        return scores

    def predict(self, images: Tensor) -> list[Tensor]:
        """Classes (H, W) uint8."""
        return list(self.net(images).argmax(1).to(torch.uint8).cpu())

    @staticmethod
    def fit_image(image: Image.Image, side: int) -> Image.Image:
        """Scale the shorter side, keeping the aspect ratio."""
        factor = side / min(image.size)
        width, height = (round(factor * length) for length in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)

    @staticmethod
    def truth(target: Masks, image: int) -> Tensor:
        return target.classes[image]

    @staticmethod
    def resize_prediction(prediction: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        """Classes (h, w) uint8 -> (H, W) uint8, of the original image: the class of the nearest pixel."""
        classes = prediction[None, None].float()
        return functional.interpolate(classes, size=image, mode="nearest-exact")[0, 0].to(torch.uint8)

    @staticmethod
    def draw_over(axes: Axes, prediction: Tensor, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        from mnet.tasks.drawing import draw_mask

        draw_mask(axes, prediction.numpy(), names)

    @staticmethod
    def legend_classes(prediction: Tensor, limit: Limit) -> list[int]:
        return [int(i) for i in prediction.unique() if i != IGNORED]

    @staticmethod
    def to_dict(prediction: Tensor, names: Sequence[str], limit: Limit) -> dict[str, object]:
        classes = prediction.unique().tolist()
        return {"shares": {names[i]: round(float((prediction == i).float().mean()), 6) for i in classes}}


def segmentation_loss(scores: Tensor, masks: Masks, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled pixels; 0 if a batch has none."""
    classes = masks.classes.long()
    total = functional.cross_entropy(
        scores, classes, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (classes != IGNORED).sum().clamp_min(1)

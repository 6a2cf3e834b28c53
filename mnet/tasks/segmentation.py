"""Segmentation: of which class every pixel is."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mnet.data.targets import IGNORED, Masks
from mnet.tasks.module import TaskModule

Batch = tuple[Tensor, Masks]
"""Pictures (N, C, H, W) and the class of every pixel."""


class LRASPP(TaskModule):
    """Trains a segmenter, with LR-ASPP or R-ASPP, by a `Recipe`; logs `train/loss`, and
    `{val,test}/{miou,pixel_accuracy,loss}`.

    mIoU is the mean over classes of intersection over union, both summed over all pictures, in percent; the background
    is a class where the data set has one. Pixels that nobody has labelled count nowhere.
    """

    shown = ("miou", "pixel_accuracy")

    def metrics(self) -> dict[str, Metric]:
        classes = self.network.num_classes
        own: dict[str, Any] = {"validate_args": False, "sync_on_compute": False, "ignore_index": IGNORED}
        return {
            "miou": MulticlassJaccardIndex(classes, average="macro", **own),
            "pixel_accuracy": MulticlassAccuracy(classes, average="micro", **own),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, masks = batch
        return {"loss": loss_of(self.net(images), masks, self.recipe.label_smoothing)}

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, masks = batch
        scores = self.net(images)
        classes, wanted = scores.argmax(1), masks.classes.long()
        metrics["miou"].update(classes, wanted)
        metrics["pixel_accuracy"].update(classes, wanted)
        metrics["loss"].update(loss_of(scores, masks), len(images))
        return scores


def loss_of(scores: Tensor, masks: Masks, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled pixels; 0 where a batch has none."""
    wanted = masks.classes.long()
    total = functional.cross_entropy(
        scores, wanted, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (wanted != IGNORED).sum().clamp_min(1)

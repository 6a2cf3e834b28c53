"""Classification: which class an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric, MetricCollection

from mnet.models.spec import Network
from mnet.quantization import set_observing
from mnet.tasks.module import TaskModule
from mnet.training.recipes import QAT_OBSERVED, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mnet.tasks.drawing import Limit

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and class indices (N,)."""


class ImageClassifier(TaskModule):
    """Trains a `Network` by a `Recipe`; logs `train/{top1,loss}`, `val/{top1,top5,loss}` and `test/{top1,top5,loss}`.

    Accuracies are percentages. With fewer than five classes, top5 is top-k over all of them.
    """

    metric_names = ("top1", "top5")

    def metrics(self) -> dict[str, Metric]:
        # checking for NaN would synchronise with the device
        return {name: MeanMetric("disable", sync_on_compute=False) for name in self.metric_names}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch
        scores = self.run_network(images)
        loss = functional.cross_entropy(scores, labels, label_smoothing=self.recipe.label_smoothing)
        return {"loss": loss, "top1": 100 * (scores.detach().argmax(1) == labels).float().mean()}

    def on_test_start(self) -> None:
        self._correct: list[Tensor] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.evaluate(self.test_metrics, batch)
        self._correct.append(scores.argmax(1) == batch[1])

    @property
    def test_correct(self) -> Tensor:
        return torch.cat(self._correct).cpu()

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, labels = batch
        scores = self.net(images)
        best = scores.topk(min(5, scores.shape[1])).indices
        metrics["top1"].update((scores.argmax(1) == labels).float())
        metrics["top5"].update((best == labels[:, None]).any(1).float())
        metrics["loss"].update(functional.cross_entropy(scores, labels), len(labels))
        return scores

    def predict(self, images: Tensor) -> list[Tensor]:
        """Probabilities (num_classes,)."""
        return list(self.net(images).softmax(1).cpu())

    @staticmethod
    def fit_image(image: Image.Image, side: int) -> Image.Image:
        """Scale the shorter side, then crop the centre."""
        return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)

    @staticmethod
    def resize_prediction(prediction: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        """The probabilities (num_classes,), which are the same at any size."""
        return prediction

    @classmethod
    def draw(cls, figure: Figure, image: np.ndarray, prediction: Tensor, names: Sequence[str], limit: Limit) -> None:
        """Draw an image, (H, W) or (H, W, 3) uint8, next to bars of its most probable classes."""
        from mnet.tasks.drawing import draw_bars, show_image

        left, right = figure.subplots(1, 2)
        show_image(left, image)
        top = _top_classes(prediction, limit)
        draw_bars(right, [names[i] for i, _ in top], [probability for _, probability in top])

    @staticmethod
    def to_dict(prediction: Tensor, names: Sequence[str], limit: Limit) -> dict[str, object]:
        top = _top_classes(prediction, limit)
        return {"top": [{"class": names[i], "probability": round(probability, 6)} for i, probability in top]}


def _top_classes(probabilities: Tensor, limit: Limit) -> list[tuple[int, float]]:
    top, classes = probabilities.topk(min(limit.top, len(probabilities)))
    return list(zip(classes.tolist(), top.tolist(), strict=True))


class QuantizedClassifier(ImageClassifier):
    """Continues training a network prepared by `mnet.quantization`. Activation ranges follow the training images, and
    are fixed in the last part of the training."""

    def __init__(self, network: Network, recipe: Recipe, prepared: nn.Module) -> None:
        super().__init__(network, recipe)
        self.net = prepared
        self._observing: bool | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._set_observing(self.trainer.global_step < QAT_OBSERVED * self.trainer.estimated_stepping_batches)

    def on_validation_start(self) -> None:
        self._set_observing(False)

    def _set_observing(self, on: bool) -> None:
        if on != self._observing:
            set_observing(self.net, on)
            self._observing = on

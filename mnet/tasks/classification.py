"""Classification: which of the classes an image shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric, MetricCollection

from mnet.models.spec import Network
from mnet.quantization import set_observing
from mnet.tasks.drawing import Limit, draw_bars, show_image
from mnet.tasks.module import TaskModule
from mnet.training.recipes import QAT_OBSERVED, Recipe

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and class indices (N,)."""


class ImageClassifier(TaskModule):
    """Trains a `Network` by a `Recipe`; logs `train/{top1,loss}`, `val/{top1,top5,loss}` and `test/{top1,top5,loss}`.

    Accuracies are percentages. With fewer than five classes, top5 is top-k over all of them.
    """

    shown = ("top1", "top5")

    def metrics(self) -> dict[str, Metric]:
        # a look for NaN would wait for the device; where it is left out, torchmetrics takes no weights
        return {name: MeanMetric("disable", sync_on_compute=False) for name in self.shown}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        scores = self.answers(images)
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
    def fitted(image: Image.Image, side: int) -> Image.Image:
        """The shorter side scaled, the middle cropped."""
        return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)

    @staticmethod
    def onto(seen: Tensor, size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        return seen

    @classmethod
    def draw(cls, figure: Figure, image: np.ndarray, seen: Tensor, names: Sequence[str], limit: Limit) -> None:
        left, right = figure.subplots(1, 2)
        show_image(left, image)
        found = top(seen, limit)
        draw_bars(right, [names[i] for i, _ in found], [share for _, share in found])

    @staticmethod
    def tell(seen: Tensor, names: Sequence[str], limit: Limit) -> dict[str, object]:
        return {"top": [{"class": names[i], "probability": round(share, 6)} for i, share in top(seen, limit)]}


def top(probabilities: Tensor, limit: Limit) -> list[tuple[int, float]]:
    shares, classes = probabilities.topk(min(limit.top, len(probabilities)))
    return list(zip(classes.tolist(), shares.tolist(), strict=True))


class QuantizedClassifier(ImageClassifier):
    """Trains on a network prepared by `mnet.quantization`. Its ranges widen by training images alone, and not in
    the last part of the training."""

    def __init__(self, network: Network, recipe: Recipe, prepared: nn.Module) -> None:
        super().__init__(network, recipe)
        self.net = prepared
        self._seeing: bool | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._observe(self.trainer.global_step < QAT_OBSERVED * self.trainer.estimated_stepping_batches)

    def on_validation_start(self) -> None:
        self._observe(False)

    def _observe(self, seeing: bool) -> None:
        if seeing != self._seeing:
            set_observing(self.net, seeing)
            self._seeing = seeing

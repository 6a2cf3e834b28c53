"""Detection: where the objects of a picture are, and which class each is of."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from mnet.data.targets import Boxes
from mnet.spec import Network
from mnet.tasks.boxes import Decoder, DefaultBoxes, Found
from mnet.tasks.module import TaskModule
from mnet.training.recipes import Recipe

Batch = tuple[Tensor, Boxes]
"""Pictures (N, C, H, W), all of one size, and their objects."""
MEASURED = 100
"""Objects a picture, the surest ones, that COCO's mAP looks at."""


class SSDLite(TaskModule):
    """Trains a detector by a `Recipe`; logs `train/loss`, and `{val,test}/{map,map_50,map_75,loss}`.

    mAP is COCO's, over IoU 0.5 to 0.95, at 0.5 alone and at 0.75, in percent.
    """

    shown = ("map", "map_50", "map_75")

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__(network, recipe)
        assert network.head is not None
        self._default = DefaultBoxes(network.head.boxes)
        self._decoders: dict[tuple[tuple[int, int], torch.device], Decoder] = {}

    def metrics(self) -> dict[str, Metric]:
        return {"boxes": MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)}

    def decoder(self, images: Tensor) -> Decoder:
        """For pictures as large as these."""
        size = images.shape[2], images.shape[3]
        if (size, images.device) not in self._decoders:
            default = self._default.on(self.network, size).to(images.device)
            self._decoders[size, images.device] = Decoder(default, size)
        return self._decoders[size, images.device]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, target = batch
        return {"loss": self.decoder(images).loss(self.net(images), target)}

    def find(self, images: Tensor) -> list[Found]:
        """The objects of pictures (N, C, H, W)."""
        return self.decoder(images).find(self.net(images), MEASURED)

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, target = batch
        told, decoder = self.net(images), self.decoder(images)
        found = [one._asdict() for one in decoder.find(told, MEASURED)]
        wanted = [dict(zip(("boxes", "labels"), target.of(i), strict=True)) for i in range(len(images))]
        metrics["boxes"].update(found, wanted)
        metrics["loss"].update(decoder.loss(told, target), len(images))
        return told

"""Detection: where the objects of an image are, and which class each is of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from mnet.data.targets import Boxes
from mnet.models.spec import Network
from mnet.tasks.boxes import Decoder, DefaultBoxes, Detections
from mnet.tasks.drawing import Limit, colour, draw_boxes
from mnet.tasks.module import TaskModule
from mnet.training.recipes import Recipe

Batch = tuple[Tensor, Boxes]
"""Images (N, C, H, W), all of one size, and their objects."""
MEASURED = 100
"""Objects an image, the surest ones, that COCO's mAP looks at."""


class SSDLiteDetector(TaskModule):
    """Trains a detector by a `Recipe`; logs `train/loss`, and `{val,test}/{map,map_50,map_75,loss}`.

    mAP is COCO's, over IoU 0.5 to 0.95, at 0.5 alone and at 0.75, in percent.
    """

    shown = ("map", "map_50", "map_75")
    drawn = True
    seen_from = Detections

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__(network, recipe)
        assert network.head is not None
        self._default = DefaultBoxes(network.head.boxes)
        self._decoders: dict[tuple[tuple[int, int], torch.device], Decoder] = {}

    def metrics(self) -> dict[str, Metric]:
        return {"boxes": MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)}

    def decoder(self, images: Tensor) -> Decoder:
        """For images as large as these."""
        size = images.shape[2], images.shape[3]
        if (size, images.device) not in self._decoders:
            default = self._default.on(self.network, size).to(images.device)
            self._decoders[size, images.device] = Decoder(default, size)
        return self._decoders[size, images.device]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, target = batch
        return {"loss": self.decoder(images).loss(self.answers(images), target)}

    def predict(self, images: Tensor) -> list[Detections]:
        found = self.decoder(images).find(self.net(images), MEASURED)
        return [Detections(*(one.cpu() for one in own)) for own in found]

    @staticmethod
    def fitted(image: Image.Image, side: int) -> Image.Image:
        """The whole in a square, whatever its aspect."""
        return image.resize((side, side), Image.Resampling.BILINEAR)

    @staticmethod
    def truth(target: Boxes, image: int) -> Detections:
        boxes, labels = target.of(image)
        return Detections(boxes, torch.ones(len(labels)), labels)

    @staticmethod
    def onto(seen: Detections, size: tuple[int, int], image: tuple[int, int]) -> Detections:
        height, width = image[0] / size[0], image[1] / size[1]
        return seen._replace(boxes=seen.boxes * torch.tensor([width, height, width, height]))

    @staticmethod
    def draw_on(axes: Axes, seen: Detections, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        """Boxes with class and, where it is not certain, the score in percent."""
        shown = sure(seen, limit)
        labels, scores = shown.labels.tolist(), shown.scores.tolist()
        said = [names[i - 1] + (f" {100 * s:.0f}" if s < 1 else "") for i, s in zip(labels, scores, strict=True)]
        draw_boxes(axes, shown.boxes.numpy(), [colour(names[i - 1], names) for i in labels], said, size)

    @staticmethod
    def tell(seen: Detections, names: Sequence[str], limit: Limit) -> dict[str, object]:
        return {
            "objects": [
                {"class": names[label - 1], "score": round(score, 4), "box": [round(end, 1) for end in box]}
                for box, score, label in zip(*(one.tolist() for one in sure(seen, limit)), strict=True)
            ]
        }

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, target = batch
        told, decoder = self.net(images), self.decoder(images)
        found = [one._asdict() for one in decoder.find(told, MEASURED)]
        wanted = [dict(zip(("boxes", "labels"), target.of(i), strict=True)) for i in range(len(images))]
        metrics["boxes"].update(found, wanted)
        metrics["loss"].update(decoder.loss(told, target), len(images))
        return told


def sure(seen: Detections, limit: Limit) -> Detections:
    return Detections(*(one[seen.scores >= limit.score] for one in seen))

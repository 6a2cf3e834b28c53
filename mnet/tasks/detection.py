"""Detection: where the objects of an image are, and the class of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from mnet.data.targets import Boxes
from mnet.models.spec import Network
from mnet.tasks.boxes import Decoder, DefaultBoxes, Detections
from mnet.tasks.module import TaskModule
from mnet.training.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mnet.tasks.drawing import Limit

Batch = tuple[Tensor, Boxes]
"""Images (N, C, H, W), all of one size, and their objects."""
COCO_OBJECTS = 100
"""Objects per image that count in COCO's mAP: those with the highest scores."""


class SSDLiteDetector(TaskModule):
    """Trains a detector by a `Recipe`; logs `train/loss` and `{val,test}/{map,map_50,map_75,loss}`.

    mAP is COCO's in percent: over IoU 0.5 to 0.95, at 0.5, and at 0.75.
    """

    metric_names = ("map", "map_50", "map_75")
    drawable = True
    prediction_type = Detections
    step_reads_values = True  # how many boxes are matched

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__(network, recipe)
        assert network.head is not None
        self._default = DefaultBoxes(network.head.boxes)
        self._decoders: dict[tuple[tuple[int, int], torch.device], Decoder] = {}

    def metrics(self) -> dict[str, Metric]:
        return {"boxes": MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)}

    def decoder(self, images: Tensor) -> Decoder:
        """The decoder for images of this size."""
        size = images.shape[2], images.shape[3]
        if (size, images.device) not in self._decoders:
            default = self._default.for_images(self.network, size).to(images.device)
            self._decoders[size, images.device] = Decoder(default, size)
        return self._decoders[size, images.device]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        images, target = batch
        return {"loss": self.decoder(images).loss(self.run_network(images), target)}

    def predict(self, images: Tensor) -> list[Detections]:
        detections = self.decoder(images).detect(self.net(images), COCO_OBJECTS)
        return [Detections(*(tensor.cpu() for tensor in objects)) for objects in detections]

    @staticmethod
    def fit_image(image: Image.Image, side: int) -> Image.Image:
        """Scale to a square, whatever the aspect ratio."""
        return image.resize((side, side), Image.Resampling.BILINEAR)

    @staticmethod
    def truth(target: Boxes, image: int) -> Detections:
        boxes, labels = target.of(image)
        return Detections(boxes, torch.ones(len(labels)), labels)

    @staticmethod
    def resize_prediction(prediction: Detections, size: tuple[int, int], image: tuple[int, int]) -> Detections:
        """The detections with boxes (objects, 4) in pixels of the original image."""
        height, width = image[0] / size[0], image[1] / size[1]
        return prediction._replace(boxes=prediction.boxes * torch.tensor([width, height, width, height]))

    @staticmethod
    def draw_over(axes: Axes, prediction: Detections, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        """Boxes with the class and, unless it is 100, the score in percent."""
        from mnet.tasks.drawing import colour, draw_boxes

        shown = _above(prediction, limit)
        labels, scores = shown.labels.tolist(), shown.scores.tolist()
        texts = [names[i - 1] + (f" {100 * s:.0f}" if s < 1 else "") for i, s in zip(labels, scores, strict=True)]
        draw_boxes(axes, shown.boxes.numpy(), [colour(names[i - 1], names) for i in labels], texts, size)

    @staticmethod
    def to_dict(prediction: Detections, names: Sequence[str], limit: Limit) -> dict[str, object]:
        return {
            "objects": [
                {"class": names[label - 1], "score": round(score, 4), "box": [round(end, 1) for end in box]}
                for box, score, label in zip(*(tensor.tolist() for tensor in _above(prediction, limit)), strict=True)
            ]
        }

    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, target = batch
        outputs, decoder = self.net(images), self.decoder(images)
        predicted = [objects._asdict() for objects in decoder.detect(outputs, COCO_OBJECTS)]
        expected = [dict(zip(("boxes", "labels"), target.of(i), strict=True)) for i in range(len(images))]
        metrics["boxes"].update(predicted, expected)
        metrics["loss"].update(decoder.loss(outputs, target), len(images))
        return outputs


def _above(detections: Detections, limit: Limit) -> Detections:
    return Detections(*(tensor[detections.scores >= limit.score] for tensor in detections))

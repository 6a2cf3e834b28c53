"""From SSDLite's output to boxes and to its loss. Default boxes, matcher, coder and NMS are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from mnet.data.targets import Boxes
from mnet.models.heads import SSDLiteHead
from mnet.models.spec import Network

RATIOS = (2, 3)
MIN_SCALE, MAX_SCALE, SMALLEST = 0.2, 0.95, 0.1
"""Sizes of default boxes as fractions of the image: from C4 to the last map, and of C4's square if C4 has 3 boxes.
Source: the authors' SSD configurations; SSD §2.2."""
MATCH_IOU = 0.5
"""Lowest IoU at which a default box is matched to an object; an object's best default box always is."""
NEGATIVES = 3
"""Background boxes in the loss per matched box: those with the highest loss. Source: SSD §2.2."""
MIN_SCORE, NMS_IOU, CANDIDATES, MAX_OBJECTS = 0.001, 0.55, 300, 300
"""Source: torchvision's ssdlite320_mobilenet_v3_large."""


class Detections(NamedTuple):
    """The detected objects of an image, by descending score."""

    boxes: Tensor
    """(objects, 4): left, top, right, bottom in pixels."""
    scores: Tensor
    """(objects,), in [0, 1]"""
    labels: Tensor
    """(objects,), starting at 1"""


class DefaultBoxes(DefaultBoxGenerator):
    """torchvision's default boxes, or the authors' if the finest map has three per position."""

    def __init__(self, boxes: Sequence[int]) -> None:
        self.boxes = tuple(boxes)
        super().__init__([list(RATIOS) for _ in boxes], min_ratio=MIN_SCALE, max_ratio=MAX_SCALE)
        if self.boxes[0] == 3:
            wide, high = MIN_SCALE * 2**0.5, MIN_SCALE / 2**0.5
            self._wh_pairs[0] = torch.tensor([[SMALLEST, SMALLEST], [wide, high], [high, wide]])

    def for_images(self, network: Network, size: tuple[int, int]) -> Tensor:
        """The default boxes for images of height and width `size`: (boxes, 4) in pixels, in SSDLite's order."""
        maps = SSDLiteHead.input_maps(network)
        heights, widths = (
            SSDLiteHead.map_sizes([item.size(side) for item in maps], len(self.boxes) - len(maps)) for side in size
        )
        grids = [torch.empty(1, 1, *map_size) for map_size in zip(heights, widths, strict=True)]
        (boxes,) = self(ImageList(torch.empty(1, 1, *size), [size]), grids)
        return boxes


@dataclass(frozen=True)
class Decoder:
    """Turns SSDLite's output for images of one size into boxes and into the loss."""

    default: Tensor
    """(boxes, 4), from `DefaultBoxes.for_images`."""
    size: tuple[int, int]
    """Height and width of the images."""
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    matcher = SSDMatcher(MATCH_IOU)

    def match(self, target: Boxes) -> Tensor:
        """The object that each default box is matched to: (N, boxes), -1 = none."""
        rows = []
        for i in range(len(target.labels)):
            boxes, _ = target.of(i)
            if len(boxes):
                rows.append(self.matcher(box_iou(boxes, self.default)))
            else:
                rows.append(torch.full((len(self.default),), -1, device=self.default.device))
        return torch.stack(rows)

    def loss(self, outputs: Tensor, target: Boxes) -> Tensor:
        """Smooth L1 of the matched boxes plus cross-entropy of these and of the hardest background boxes, both divided
        by the number of matched boxes. Source: SSD §2.2; summed as in torchvision.

        Args:
            outputs: (N, boxes, classes + 1 + 4), from SSDLite.
            target: The objects of the images.
        """
        scores, codes = outputs[..., :-4], outputs[..., -4:]
        objects = self.match(target)
        matched = objects >= 0
        count = max(1, int(matched.sum()))
        image, box = torch.where(matched)
        index = objects[image, box]
        target_codes = self.coder.encode_single(target.boxes[image, index], self.default[box])
        box_loss = functional.smooth_l1_loss(codes[image, box], target_codes, reduction="sum")
        classes = torch.zeros_like(objects)
        classes[image, box] = target.labels[image, index]
        score_loss = functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
        score_loss = score_loss.view_as(objects)
        rank = score_loss.detach().masked_fill(matched, -torch.inf).argsort(1, descending=True).argsort(1)
        hard = rank < NEGATIVES * matched.sum(1, keepdim=True)
        return (box_loss + score_loss[matched].sum() + score_loss[hard].sum()) / count

    def detect(self, outputs: Tensor, max_objects: int = MAX_OBJECTS) -> list[Detections]:
        """The objects of every image, after NMS within each class.

        Args:
            outputs: (N, boxes, classes + 1 + 4), from SSDLite.
            max_objects: Maximum per image; those with the highest scores are kept.
        """
        outputs = outputs.float()
        n, boxes, width = outputs.shape
        scores = outputs[..., :-4].softmax(2)[..., 1:].transpose(1, 2)  # (N, classes, boxes)
        scores, box = scores.topk(min(CANDIDATES, boxes), 2)
        image, label, nth = torch.where(scores > MIN_SCORE)
        scores, box = scores[image, label, nth], box[image, label, nth]
        decoded = self.coder.decode_single(outputs[image, box, width - 4 :], self.default[box])
        decoded = clip_boxes_to_image(decoded, self.size)
        best = batched_nms(decoded, scores, image * width + label, NMS_IOU)  # by descending score
        detections = []
        for i in range(n):
            kept = best[image[best] == i][:max_objects]
            detections.append(Detections(decoded[kept], scores[kept], label[kept] + 1))
        return detections

"""From what SSDLite tells to boxes, and to its loss. Default boxes, matcher, coder and NMS are torchvision's."""

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
"""Sizes of default boxes as shares of the image, from C4 to the last map; and of C4's square where it has 3 boxes.
Source: the authors' SSD configurations; SSD §2.2."""
MATCHED = 0.5
"""IoU from which a default box stands for an object; the best one of an object always does."""
NEGATIVES = 3
"""Background boxes that count in the loss, the worst ones, for each that stands for an object. Source: SSD §2.2."""
SCORE, OVERLAP, CANDIDATES, KEPT = 0.001, 0.55, 300, 300
"""Source: torchvision's ssdlite320_mobilenet_v3_large."""


class Detections(NamedTuple):
    """What was found in an image, the surest first."""

    boxes: Tensor
    """(objects, 4): left, top, right, bottom in pixels."""
    scores: Tensor
    """(objects,) in [0, 1]"""
    labels: Tensor
    """(objects,) from 1 on"""


class DefaultBoxes(DefaultBoxGenerator):
    """torchvision's, and on the finest map the authors' three."""

    def __init__(self, boxes: Sequence[int]) -> None:
        self.boxes = tuple(boxes)
        super().__init__([list(RATIOS) for _ in boxes], min_ratio=MIN_SCALE, max_ratio=MAX_SCALE)
        if self.boxes[0] == 3:
            wide, high = MIN_SCALE * 2**0.5, MIN_SCALE / 2**0.5
            self._wh_pairs[0] = torch.tensor([[SMALLEST, SMALLEST], [wide, high], [high, wide]])

    def on(self, network: Network, size: tuple[int, int]) -> Tensor:
        """The default boxes of images of height and width `size`: (boxes, 4) in pixels, in SSDLite's order."""
        maps = SSDLiteHead.input_maps(network)
        heights, widths = (
            SSDLiteHead.map_sizes([one.size(side) for one in maps], len(self.boxes) - len(maps)) for side in size
        )
        grids = [torch.empty(1, 1, *one) for one in zip(heights, widths, strict=True)]
        (found,) = self(ImageList(torch.empty(1, 1, *size), [size]), grids)
        return found


@dataclass(frozen=True)
class Decoder:
    """Reads what SSDLite tells of images of one size."""

    default: Tensor
    """(boxes, 4), of `DefaultBoxes.on`."""
    size: tuple[int, int]
    """Height and width of the images."""
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    matcher = SSDMatcher(MATCHED)

    def matched(self, target: Boxes) -> Tensor:
        """Which object each default box stands for: (N, boxes), -1 = none."""
        rows = []
        for i in range(len(target.labels)):
            boxes, _ = target.of(i)
            if len(boxes):
                rows.append(self.matcher(box_iou(boxes, self.default)))
            else:
                rows.append(torch.full((len(self.default),), -1, device=self.default.device))
        return torch.stack(rows)

    def loss(self, told: Tensor, target: Boxes) -> Tensor:
        """Smooth L1 of the places of matched boxes plus cross-entropy of these and of the worst background ones, both
        over the number of matched boxes. Source: SSD §2.2; the sum is torchvision's.

        Args:
            told: (N, boxes, classes + 1 + 4), of SSDLite.
            target: Padded last.
        """
        scores, places = told[..., :-4], told[..., -4:]
        matched = self.matched(target)
        stands = matched >= 0
        count = max(1, int(stands.sum()))
        image, box = torch.where(stands)
        thing = matched[image, box]
        wanted = target.boxes[image, thing]
        codes = self.coder.encode_single(wanted, self.default[box])
        placing = functional.smooth_l1_loss(places[image, box], codes, reduction="sum")
        classes = torch.zeros_like(matched)
        classes[image, box] = target.labels[image, thing]
        naming = functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none").view_as(matched)
        rank = naming.detach().masked_fill(stands, -torch.inf).argsort(1, descending=True).argsort(1)
        hard = rank < NEGATIVES * stands.sum(1, keepdim=True)
        return (placing + naming[stands].sum() + naming[hard].sum()) / count

    def find(self, told: Tensor, kept: int = KEPT) -> list[Detections]:
        """The objects of every image, at most `kept`.

        Args:
            told: (N, boxes, classes + 1 + 4), of SSDLite.
            kept: The surest ones, after NMS within each class.
        """
        told = told.float()
        n, boxes, width = told.shape
        scores = told[..., :-4].softmax(2)[..., 1:].transpose(1, 2)  # (N, classes, boxes)
        scores, box = scores.topk(min(CANDIDATES, boxes), 2)
        image, label, nth = torch.where(scores > SCORE)
        scores, box = scores[image, label, nth], box[image, label, nth]
        places = self.coder.decode_single(told[image, box, width - 4 :], self.default[box])
        places = clip_boxes_to_image(places, self.size)
        best = batched_nms(places, scores, image * width + label, OVERLAP)  # the surest first
        found = []
        for i in range(n):
            own = best[image[best] == i][:kept]
            found.append(Detections(places[own], scores[own], label[own] + 1))
        return found

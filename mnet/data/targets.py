"""Labels of detection and segmentation: boxes and masks of many images as tensors."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

IGNORED = 255
"""Value of unlabelled pixels in masks; they count neither in the loss nor in mIoU."""


class Boxes(NamedTuple):
    """The objects of each image, padded to the largest number of objects; an image may have none."""

    boxes: Tensor
    """(N, objects, 4) float32: left, top, right, bottom in pixels; zeros where there is no object."""
    labels: Tensor
    """(N, objects) int64: classes from 1 on; 0 = no object."""

    def select(self, chosen: Tensor | slice) -> Boxes:
        """The objects of n images, chosen by a slice or by indices (n,) int64."""
        return Boxes(self.boxes[chosen], self.labels[chosen])

    def mirrored(self, which: Tensor, width: int) -> Boxes:
        """Mirrored left to right in the images of `which`, (N,) bool, each `width` pixels wide."""
        left, top, right, bottom = self.boxes.unbind(2)
        flipped = torch.stack([width - right, top, width - left, bottom], 2) * (self.labels > 0).unsqueeze(2)
        return Boxes(torch.where(which.view(-1, 1, 1), flipped, self.boxes), self.labels)

    def of(self, image: int) -> tuple[Tensor, Tensor]:
        """Boxes (objects, 4) and labels (objects,) of one image, without the padding."""
        real = self.labels[image] > 0
        return self.boxes[image][real], self.labels[image][real]

    def to(self, device: torch.device) -> Boxes:
        return Boxes(self.boxes.to(device), self.labels.to(device))

    def share_memory_(self) -> Self:
        self.boxes.share_memory_()
        self.labels.share_memory_()
        return self

    @property
    def nbytes(self) -> int:
        return self.boxes.nbytes + self.labels.nbytes


class Masks(NamedTuple):
    """The class of every pixel."""

    classes: Tensor
    """(N, H, W) uint8; `IGNORED` = not labelled."""

    def select(self, chosen: Tensor | slice) -> Masks:
        """The masks of n images, chosen by a slice or by indices (n,) int64."""
        return Masks(self.classes[chosen])

    def mirrored(self, which: Tensor, width: int) -> Masks:
        """Mirrored left to right in the images of `which`, (N,) bool."""
        return Masks(torch.where(which.view(-1, 1, 1), self.classes.flip(2), self.classes))

    def to(self, device: torch.device) -> Masks:
        return Masks(self.classes.to(device))

    def share_memory_(self) -> Self:
        self.classes.share_memory_()
        return self

    @property
    def nbytes(self) -> int:
        return self.classes.nbytes


Targets = Boxes | Masks


def pad_boxes(objects: list[tuple[Tensor, Tensor]]) -> Boxes:
    """`Boxes` from each image's boxes (objects, 4) and labels (objects,)."""
    count = max((len(labels) for _, labels in objects), default=0)
    boxes, labels = torch.zeros(len(objects), count, 4), torch.zeros(len(objects), count, dtype=torch.int64)
    for i, (image_boxes, image_labels) in enumerate(objects):
        boxes[i, : len(image_boxes)], labels[i, : len(image_labels)] = image_boxes, image_labels
    return Boxes(boxes, labels)

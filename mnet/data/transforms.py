"""Transforms of images together with their boxes or masks, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from mnet.data.targets import IGNORED, Boxes, Masks, pad_boxes


class Sample(NamedTuple):
    """An image and its annotation."""

    image: Tensor
    """(C, H, W) uint8"""
    target: Any
    """Boxes (n, 4) in pixels and labels (n,), classes from 1 on; or a mask (H, W) uint8."""


Transform = Callable[[Sample], tuple[Tensor, Any]]


class DetectionTransform:
    """An image with boxes -> (3, H, W), and boxes (n, 4) with labels (n,)."""

    def __init__(self, transform: v2.Transform, finish: v2.Transform) -> None:
        self.transform, self.finish = transform, finish

    def __call__(self, sample: Sample) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        image = sample.image
        boxes, labels = sample.target
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        result = self.transform({"image": tv_tensors.Image(image), "boxes": boxes, "labels": labels})
        return self.finish(torch.as_tensor(result["image"])), (
            torch.as_tensor(result["boxes"]).float(),
            result["labels"],
        )


class SegmentationTransform:
    """An image with a mask -> (3, H, W) and (H, W)."""

    def __init__(self, transform: Callable[..., Any], finish: v2.Transform) -> None:
        self.transform, self.finish = transform, finish

    def __call__(self, sample: Sample) -> tuple[Tensor, Tensor]:
        image, mask = self.transform(tv_tensors.Image(sample.image), tv_tensors.Mask(sample.target))
        return self.finish(torch.as_tensor(image)), torch.as_tensor(mask)


class Letterbox:
    """Fits the whole image in a canvas (H, W), at its aspect ratio; the mask of the padding is `IGNORED`."""

    def __init__(self, canvas: tuple[int, int]) -> None:
        self.canvas = canvas

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        factor = min(to / size for to, size in zip(self.canvas, image.shape[-2:], strict=True))
        size = [max(1, round(factor * side)) for side in image.shape[-2:]]
        padding = [0, 0, self.canvas[1] - size[1], self.canvas[0] - size[0]]
        image, mask = TF.resize(image, size, antialias=True), TF.resize(mask, size)
        return TF.pad(image, padding), TF.pad(mask, padding, fill=cast(Any, IGNORED))


def collate_boxes(samples: Sequence[tuple[Tensor, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Boxes]:
    """A batch (N, 3, H, W), channels_last, and its boxes."""
    images = torch.stack([image for image, _ in samples]).contiguous(memory_format=torch.channels_last)
    return images, pad_boxes([target for _, target in samples])


def collate_masks(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Masks]:
    """A batch (N, 3, H, W), channels_last, and its masks."""
    images, masks = default_collate(list(samples))
    return images.contiguous(memory_format=torch.channels_last), Masks(masks)

"""The base of COCO, Pascal VOC and Cityscapes: photographs with boxes or masks, read by torchvision.

Detection resizes to a square, as SSD does: that changes no IoU, and so no mAP. Segmentation keeps the aspect ratio.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast
from xml.etree.ElementTree import ParseError

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnet.data.annotated import AnnotatedData, AnnotatedSettings
from mnet.data.splits import stratified_split
from mnet.data.streams import Split, StreamedData, StreamedDataset, StreamLoader, StreamSettings
from mnet.data.targets import IGNORED
from mnet.data.transforms import (
    DetectionTransform,
    Letterbox,
    Sample,
    SegmentationTransform,
    collate_boxes,
    collate_masks,
)
from mnet.errors import DataError

MIN_BOX_SIDE = 1.0
"""Boxes narrower than this many pixels, after clipping to the image, are dropped."""
SCALES = (0.5, 2.0)
"""Range of random scaling in segmentation, before the crop."""


class Source(ABC):
    """A published split, as torchvision reads it."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """
        Raises:
            DataError: An image or its annotation cannot be read, or they do not match.
        """

    def load(self, index: int, *files: Path) -> tuple[Image.Image, Any]:
        """An image and its annotation, which are in `files`.

        Raises:
            DataError: One of the files cannot be read.
        """
        try:
            return self.data[index]
        except (OSError, SyntaxError, ParseError, ValueError) as error:
            raise DataError(f"{' or '.join(map(str, files))} cannot be read ({error}). Repair or delete it.") from error


class AnnotatedDataset(StreamedDataset):
    """Part of a `Source`; images and annotations are transformed together."""

    def load(self, index: int) -> tuple[Tensor, Any]:
        sample: tuple[Tensor, Any] = self.transform(self.source.read(index))
        return sample


@dataclass(frozen=True, kw_only=True)
class PhotographSettings(StreamSettings, AnnotatedSettings):
    """Settings of COCO, Pascal VOC and Cityscapes."""

    batch_size: int = 32
    val_size: int = 200


class AnnotatedPhotographs(AnnotatedData, StreamedData):
    """A data set of annotated photographs. A subclass implements `source`."""

    settings_type = PhotographSettings
    settings: PhotographSettings
    dataset = AnnotatedDataset
    aspect: ClassVar[int] = 1
    """Width over height of the canvas on which segmentation is evaluated."""

    @abstractmethod
    def source(self, split: Split) -> Source: ...

    def split(self, train: Source) -> tuple[Tensor, Tensor]:
        return stratified_split(torch.zeros(len(train), dtype=torch.int64), self.settings.val_size)

    def transforms(self) -> tuple[Callable[[Sample], Any], Callable[[Sample], Any]]:
        side = self.resolution
        finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        if self.task == "detection":
            square, drop_tiny = v2.Resize((side, side), antialias=True), v2.SanitizeBoundingBoxes(min_size=1)
            crops = v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), square, drop_tiny])
            return DetectionTransform(crops, finish), DetectionTransform(v2.Compose([square]), finish)
        canvas = (side, side * self.aspect)
        padding = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
        jitter = v2.ScaleJitter(canvas, SCALES, antialias=True)
        crop = v2.RandomCrop((side, side), pad_if_needed=True, fill=cast(Any, padding))
        augment = v2.Compose([jitter, crop, v2.RandomHorizontalFlip()])
        return SegmentationTransform(augment, finish), SegmentationTransform(Letterbox(canvas), finish)

    def loader(self, images: Sized, **settings: Any) -> StreamLoader:
        return StreamLoader(images, collate=collate_boxes if self.task == "detection" else collate_masks, **settings)


def clip_boxes(boxes: Tensor, labels: Tensor, image: Image.Image) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the image; those then below `MIN_BOX_SIDE`, or not finite, are dropped."""
    boxes = boxes.clone()
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, image.width), boxes[:, 1::2].clamp(0, image.height)
    valid = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(1) & boxes.isfinite().all(1)
    return boxes[valid], labels[valid]


def check_mask(mask: np.ndarray, image: Image.Image, file: Path, classes: int) -> np.ndarray:
    """The mask of an image, (H, W) uint8.

    Raises:
        DataError: Its size is not the image's, or it has a class out of range.
    """
    if mask.shape != (image.height, image.width):
        sizes = f"{mask.shape[1]}x{mask.shape[0]} pixels, its image {image.width}x{image.height}"
        raise DataError(f"{file} is {sizes}. A mask must have its image's size.")
    invalid = mask[(mask >= classes) & (mask != IGNORED)]
    if invalid.size:
        raise DataError(f"{file} has class {invalid[0]}; expected 0 to {classes - 1}, or {IGNORED} for no label.")
    return mask.astype(np.uint8)

"""The base of COCO, Pascal VOC and Cityscapes: photographs with boxes or masks.

Detection resizes to a square, as SSD does: that changes no IoU, and so no mAP. Segmentation keeps the aspect ratio.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnet.data.annotated import AnnotatedData, AnnotatedSettings
from mnet.data.decoding import open_annotated, open_indices, read_indices, read_sizes
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
from mnet.errors import DataError, path_text

MIN_BOX_SIDE = 1.0
"""Boxes narrower than this many pixels, after clipping to the image, are dropped."""
VAL_SHARE = 0.2
"""Largest share of the training images for validation."""
SCALES = (0.5, 2.0)
"""Range of random scaling in segmentation, before the crop."""


class Source(ABC):
    """A published split. Its annotations are checked when it is opened, its images when they are read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """
        Raises:
            DataError: An image or its annotation cannot be read, or they do not match.
        """


class BoxSource(Source):
    """Images with the boxes that were read when the split was opened."""

    def __init__(self, images: Sequence[AnnotatedImage]) -> None:
        """
        Raises:
            DataError: An image is missing.
        """
        self.images = images
        for image in images:
            if not image.path.is_file():
                raise DataError(
                    f"{path_text(image.path)} is missing, but {path_text(image.annotation)} has it. Unpack the images "
                    "again, or remove it there."
                )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Sample:
        path, size, objects, annotation = self.images[index]
        image = open_annotated(path, size, path_text(annotation))
        boxes = torch.tensor([corners for corners, _ in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
        return Sample(image, clip_boxes(boxes, labels, image))


class AnnotatedImage(NamedTuple):
    """An image and its objects."""

    path: Path
    size: tuple[int, int] | None
    """Annotated width and height; None if they are not."""
    objects: Sequence[tuple[Sequence[float], int]]
    """Left, top, right and bottom of each, and its class from 1 on."""
    annotation: Path
    """The file that has them."""


class MaskSource(Source):
    """Images and the files of their masks."""

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int) -> None:
        """
        Raises:
            DataError: A file is missing, or a mask has several channels or another size than its image.
        """
        self.files, self.classes = files, classes
        for image, mask in files:
            check_sizes(image, mask)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Sample:
        path, file = self.files[index]
        mask = self.classes_of(read_indices(file), file)
        image = open_annotated(path, (mask.shape[1], mask.shape[0]), path_text(file))
        return Sample(image, check_mask(mask, file, self.classes))

    def classes_of(self, indices: np.ndarray, file: Path) -> np.ndarray:
        """The classes that the values of a mask's file stand for."""
        return indices


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
        """
        Raises:
            DataError: Fewer than 2 training images.
        """
        if len(train) < 2:
            raise DataError(f"{self.name} has {len(train)} training images in {self.data_dir}; expected at least 2.")
        val_size = min(self.settings.val_size, max(1, round(VAL_SHARE * len(train))))
        return stratified_split(torch.zeros(len(train), dtype=torch.int64), val_size)

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


def check_sizes(image: Path, mask: Path) -> None:
    """
    Raises:
        DataError: The mask has several channels, or a size that its image has neither upright nor as it is stored.
    """
    open_indices(mask).close()
    (size, _), sizes = read_sizes(mask), read_sizes(image)
    if size not in sizes:
        both = f"{size[0]}x{size[1]} pixels, its image {sizes[0][0]}x{sizes[0][1]}"
        raise DataError(f"{path_text(mask)} is {both}. A mask must have its image's size.")


def check_mask(mask: np.ndarray, file: Path, classes: int) -> np.ndarray:
    """The mask of an image, (H, W) uint8.

    Raises:
        DataError: It has a class out of range.
    """
    invalid = mask[((mask >= classes) | (mask < 0)) & (mask != IGNORED)]
    if invalid.size:
        raise DataError(
            f"{path_text(file)} has class {invalid[0]}; expected 0 to {classes - 1}, or {IGNORED} for no label."
        )
    return mask.astype(np.uint8)

"""Published splits of annotated photographs: their images, and the boxes or masks of each, checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mnet.data.decoding import open_annotated, open_indices, read_indices, read_sizes
from mnet.data.targets import IGNORED
from mnet.errors import DataError, path_text

MIN_BOX_SIDE = 1.0
"""Boxes with a side below this many pixels, after clipping to the image, are dropped."""


class Source(ABC):
    """A published split. Its annotations are checked when it is opened, its images when they are read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """An image as it was annotated.

        Raises:
            DataError: It cannot be read, or does not match its annotation.
        """

    @abstractmethod
    def size_of(self, index: int) -> tuple[int, int]:
        """Width and height of the image that `read` returns.

        Raises:
            DataError: Its file is not an image.
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

    def read(self, index: int) -> Image.Image:
        path, size, _, annotation = self.images[index]
        return open_annotated(path, size, path_text(annotation))

    def size_of(self, index: int) -> tuple[int, int]:
        path, size, *_ = self.images[index]
        return read_sizes(path)[0] if size is None else size

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) in pixels of the image from `read`, clipped to it, and labels (n,)."""
        objects = self.images[index].objects
        boxes = torch.tensor([corners for corners, _ in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
        return clip_boxes(boxes, labels, self.size_of(index))


class AnnotatedImage(NamedTuple):
    """An image and its objects."""

    path: Path
    size: tuple[int, int] | None
    """Annotated width and height; None if the annotation has none."""
    objects: Sequence[tuple[Sequence[float], int]]
    """Left, top, right and bottom of each, and its class from 1 on."""
    annotation: Path
    """The annotation file."""


class MaskSource(Source):
    """Images and the files of their masks."""

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int) -> None:
        """
        Raises:
            DataError: A file is missing, or a mask has several channels or a size other than its image's.
        """
        self.files, self.classes = files, classes
        for image, mask in files:
            check_sizes(image, mask)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Image.Image:
        path, file = self.files[index]
        return open_annotated(path, self.size_of(index), path_text(file))

    def size_of(self, index: int) -> tuple[int, int]:
        return read_sizes(self.files[index][1])[0]

    def mask(self, index: int) -> np.ndarray:
        """The class of every pixel of the image from `read`, (H, W) uint8.

        Raises:
            DataError: It cannot be read, or has a class out of range.
        """
        file = self.files[index][1]
        return check_mask(self.classes_of(read_indices(file), file), file, self.classes)

    def classes_of(self, indices: np.ndarray, file: Path) -> np.ndarray:
        """The classes that the values in a mask file stand for."""
        return indices


def clip_boxes(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes clipped to an image of this width and height; those below `MIN_BOX_SIDE`, or not finite, are dropped."""
    boxes = boxes.clone()
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, size[0]), boxes[:, 1::2].clamp(0, size[1])
    valid = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(1) & boxes.isfinite().all(1)
    return boxes[valid], labels[valid]


def check_sizes(image: Path, mask: Path) -> None:
    """
    Raises:
        DataError: The mask is not one channel of integers, or has neither the upright nor the stored size of its image.
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

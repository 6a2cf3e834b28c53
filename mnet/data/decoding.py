"""Decoding image files: in full, or only the part and the size that a network needs.

A JPEG can be decoded to an eighth, a quarter or half of its size for a fraction of the work (Pillow's `draft`);
cropping and scaling are then one pass over the rest. The result is bytes: batches are normalised as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop

from mnet.errors import DataError

CROP_SHARE = 224 / 256
"""Side of the evaluation crop over the shorter side of the image: the usual 224 of 256 pixels."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def open_lazily(path: str | Path) -> Image.Image:
    """An image whose size is known, but whose pixels are not decoded yet.

    Raises:
        OSError: The file is not an image.
    """
    return Image.open(path)


def open_image(path: Path) -> Image.Image:
    """A whole image: upright, RGB, 8 bits.

    Raises:
        DataError: Not a readable image.
    """
    try:
        with Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}). Repair or delete it.") from error


@dataclass(frozen=True)
class RandomCrop:
    """The training crop: random size, aspect and position, mirrored with probability 1/2, drawn as by torchvision's
    RandomResizedCrop and RandomHorizontalFlip; (side, side, 3) uint8."""

    side: int

    def __call__(self, image: Image.Image) -> Tensor:
        drawn = RandomResizedCrop(self.side).make_params([image])
        left, top, width, height = (drawn[name] for name in ("left", "top", "width", "height"))
        pixels = crop(image, (left, top, left + width, top + height), self.side)
        return pixels.flip(1) if torch.rand(1) < 0.5 else pixels


@dataclass(frozen=True)
class CentreCrop:
    """The evaluation crop; (side, side, 3) uint8."""

    side: int

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = image.size
        size = CROP_SHARE * min(width, height)
        left, top = (width - size) / 2, (height - size) / 2
        return crop(image, (left, top, left + size, top + size), self.side)


def crop(image: Image.Image, box: Box, side: int) -> Tensor:
    """A part of an image, scaled to a square of `side` pixels, antialiased: (side, side, 3) uint8.

    Raises:
        OSError: The file is damaged.
    """
    width, height = image.size
    shrink = max(1.0, min(box[2] - box[0], box[3] - box[1]) / side)
    image.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))  # never smaller; only JPEGs shrink
    across, down = image.size[0] / width, image.size[1] / height
    part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    small = to_rgb(image).resize((side, side), Image.Resampling.BILINEAR, part)
    return torch.from_numpy(np.array(ImageOps.exif_transpose(small)))  # a square can be turned after scaling


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits."""
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")

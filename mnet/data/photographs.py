"""A photograph as a network sees it: part of it, at the network's size, with as little decoding as that takes.

A JPEG can be decoded to an eighth, a quarter or half of its size for a fraction of the work (Pillow's `draft`), and
cropping and scaling are then one pass over what is left. What comes out is bytes: the batch is normalised as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop

CROP_SHARE = 224 / 256
"""Of the shorter side, for evaluation: the usual 256 and 224 pixels."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def open_photograph(path: str | Path) -> Image.Image:
    """An image whose size is known, and whose pixels are not yet decoded.

    Raises:
        OSError: It is no image.
    """
    return Image.open(path)


@dataclass(frozen=True)
class RandomCrop:
    """For training: a part of random size, aspect and place, mirrored one time in two, as torchvision's
    RandomResizedCrop and RandomHorizontalFlip draw it; (side, side, 3) uint8."""

    side: int

    def __call__(self, image: Image.Image) -> Tensor:
        drawn = RandomResizedCrop(self.side).make_params([image])
        left, top, width, height = (drawn[name] for name in ("left", "top", "width", "height"))
        seen = scaled(image, (left, top, left + width, top + height), self.side)
        return seen.flip(1) if torch.rand(1) < 0.5 else seen


@dataclass(frozen=True)
class CentreCrop:
    """For evaluation: the middle; (side, side, 3) uint8."""

    side: int

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = image.size
        across = CROP_SHARE * min(width, height)
        left, top = (width - across) / 2, (height - across) / 2
        return scaled(image, (left, top, left + across, top + across), self.side)


def scaled(image: Image.Image, box: Box, side: int) -> Tensor:
    """A part of an image in a square of `side` pixels, antialiased: (side, side, 3) uint8.

    Raises:
        OSError: The file is damaged.
    """
    width, height = image.size
    shrink = max(1.0, min(box[2] - box[0], box[3] - box[1]) / side)
    image.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))  # no smaller; of JPEGs alone
    across, down = image.size[0] / width, image.size[1] / height
    part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    small = in_colour(image).resize((side, side), Image.Resampling.BILINEAR, part)
    return torch.from_numpy(np.array(ImageOps.exif_transpose(small)))  # of a square, as well after as before


def in_colour(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits."""
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")

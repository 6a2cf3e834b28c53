"""Read the pixels of an image file that a store keeps: decoded, scaled and cropped in one pass.

A JPEG is decoded to an eighth, a quarter or half of its size if that is enough, for a fraction of the work.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from mnet.data.decoding import naming, open_lazily, orientation_of, to_rgb, turn
from mnet.errors import DataError


def read_pixels(path: Path, side: int, *, whole: bool = False, crop_share: float = 1.0) -> np.ndarray:
    """An image, antialiased and upright: (H, W, 3) uint8.

    Args:
        path: The file.
        side: Pixels of the shorter side of the result.
        whole: Keep the whole image, at its aspect ratio; else a square from its middle.
        crop_share: Side of the square over the shorter side of the image.

    Raises:
        DataError: The file is not an image, or is damaged.
    """
    with open_lazily(path) as image, naming(path):
        width, height = image.size
        crop = (width, height) if whole else (crop_share * min(width, height),) * 2
        scale = side / min(crop)
        if scale < 1:
            image.draft("RGB", (math.ceil(scale * width), math.ceil(scale * height)))  # never smaller
        across, down = image.size[0] / width, image.size[1] / height
        left, top = (width - crop[0]) / 2, (height - crop[1]) / 2
        part = (left * across, top * down, (left + crop[0]) * across, (top + crop[1]) * down)
        size = round(scale * crop[0]), round(scale * crop[1])
        fitted = to_rgb(image).resize(size, Image.Resampling.BILINEAR, part)
        return np.array(turn(fitted, orientation_of(image)))  # turning is cheaper after scaling


def read_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image as stored, without decoding it; None if the file is not an image."""
    try:
        with open_lazily(path) as image:
            return image.size
    except DataError:
        return None

"""A user's own images, decoded once into memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mnet.data.augment import Augment
from mnet.data.decoding import open_image
from mnet.data.folders import Listing, list_folder
from mnet.data.in_memory import Images, InMemoryImages
from mnet.errors import DataError

MEMORY_LIMIT_BYTES = 8 * 2**30


class ImageFolder(InMemoryImages):
    """`data_dir/train/<class>/…` with `data_dir/test/<class>/…` (and `val`), or a `data_dir/<class>/…` that is split.

    Splits are by a hash of each image's class and name, so an added image moves no other (except in a class so small
    that it had to give up its only test or validation image). `num_classes` and `class_names` are set after
    `prepare_data()`, `in_channels`, `mean` and `std` after `setup()`: 1 channel if every image is grey, else 3.
    Images are scaled on the shorter side, then cropped to the middle.
    """

    name = "imagefolder"
    named_by_files = True
    native_resolution = 224
    default_augment = Augment(flip=True, pad=16)
    listing: Listing

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: As `list_folder`.
        """
        self.listing = list_folder(self.data_dir)
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """
        Raises:
            DataError: As `prepare_data`, an unreadable image, or more pixels than `MEMORY_LIMIT_BYTES`.
        """
        if not self._splits:
            self.prepare_data()
            super().setup(stage)
            self.mean, self.std = channel_statistics(self._splits["train"].images)

    def read(self) -> tuple[Images, Images]:
        samples = self.listing.all
        pixels = decode_all([path for path, _ in samples], self.resolution)
        self.in_channels = pixels.shape[1]
        labels = torch.tensor([label for _, label in samples])
        count = len(self.listing.train_and_val)
        return Images(pixels[:count], labels[:count]), Images(pixels[count:], labels[count:])

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        Raises:
            DataError: No class has two training images.
        """
        return self.listing.split(self.settings.val_size)


def decode_all(paths: Sequence[Path], resolution: int) -> Tensor:
    """uint8 (N, C, resolution, resolution); C is 1 if every image is grey, else 3.

    Raises:
        DataError: An unreadable image, or more than `MEMORY_LIMIT_BYTES`.
    """
    needed = 3 * resolution**2 * len(paths)
    if needed > MEMORY_LIMIT_BYTES:
        fits = int((MEMORY_LIMIT_BYTES / 3 / len(paths)) ** 0.5)
        raise DataError(
            f"{len(paths):,} images at resolution {resolution} need {needed / 2**30:.1f} GiB, "
            f"the limit is {MEMORY_LIMIT_BYTES / 2**30:.1f} GiB; resolution {fits} would fit, "
            "or use dataset=photographs, which decodes them when needed."
        )
    pixels = np.empty((len(paths), resolution, resolution, 3), dtype=np.uint8)
    grey = True
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda path: _decode(path, resolution), paths)):
            pixels[index] = image
            grey = grey and bool((image == image[..., :1]).all())
    if grey:
        pixels = pixels[..., :1].copy()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _decode(path: Path, resolution: int) -> np.ndarray:
    """uint8 (resolution, resolution, 3)."""
    return np.asarray(ImageOps.fit(open_image(path), (resolution, resolution), Image.Resampling.BILINEAR))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1]; images are uint8 (N, C, H, W)."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        counts = np.bincount(channel.flatten().numpy(), minlength=256)
        mean = float(np.average(values, weights=counts))
        variance = float(np.average((values - mean) ** 2, weights=counts))
        means.append(mean)
        deviations.append(max(variance, 1e-6) ** 0.5)  # a constant channel stays finite
    return tuple(means), tuple(deviations)

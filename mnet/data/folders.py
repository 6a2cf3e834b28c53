"""Your own images: a folder per class, decoded once into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from mnet.data.augment import Augment
from mnet.data.module import Images, InMemoryImages
from mnet.data.photographs import in_colour
from mnet.errors import DataError

MEMORY_LIMIT_BYTES = 8 * 2**30
TEST_SHARE = 0.2
"""Of a folder that has no train and test of its own."""
VAL_SHARE = 0.1
"""Of the training images, at most."""

Sample = tuple[Path, int]
"""An image and its class."""


class ImageFolder(InMemoryImages):
    """`data_dir/train/<class>/…` with `data_dir/test/<class>/…`, or one `data_dir/<class>/…` that is split.

    Splits are by a hash of each image's class and name: adding an image moves no other (except in a class
    so small that it had to be given its only test or validation image). `num_classes` and `class_names`
    are known after `prepare_data()`, `in_channels`, `mean` and `std` after `setup()`: 1 channel if every
    image is grey, else 3. Images are scaled on the shorter side, then cropped to the middle.
    """

    name = "imagefolder"
    named_by_files = True
    native_resolution = 224
    default_augment = Augment(flip=True, pad=16)
    _train: list[Sample]
    _test: list[Sample]

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: Missing or empty folders, fewer than 2 classes, a class in train or in test only.
        """
        self._list()

    def setup(self, stage: str | None = None) -> None:
        """
        Raises:
            DataError: As `prepare_data`, an unreadable image, or more pixels than `MEMORY_LIMIT_BYTES`.
        """
        if not self._splits:
            self._list()
            super().setup(stage)
            images = self._splits["train"].images
            self.mean, self.std = channel_statistics(images)

    def read(self) -> tuple[Images, Images]:
        samples = self._train + self._test
        pixels = decode_all([path for path, _ in samples], self.resolution)
        self.in_channels = pixels.shape[1]
        labels = torch.tensor([label for _, label in samples])
        count = len(self._train)
        return Images(pixels[:count], labels[:count]), Images(pixels[count:], labels[count:])

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        Raises:
            DataError: No class has two training images.
        """
        return hold_out(self._train, self.val_size, self.data_dir)

    def _list(self) -> None:
        names, self._train, self._test = list_splits(self.data_dir)
        self.class_names = tuple(names)
        self.num_classes = len(names)


def list_splits(folder: Path) -> tuple[list[str], list[Sample], list[Sample]]:
    """Class names, and the images of train and test.

    Raises:
        DataError: Missing or empty folders, fewer than 2 classes, a class in train or in test only.
    """
    parts = [folder / part for part in ("train", "test")]
    if any(part.is_dir() for part in parts):
        for part in parts:
            if not part.is_dir():
                raise DataError(f"{part} is missing, its counterpart is there. Both, or neither.")
        (names, train), (test_names, test) = (list_images(part) for part in parts)
        for name in sorted(set(names) ^ set(test_names)):
            here, there = parts if name in names else reversed(parts)
            raise DataError(f"class {name!r} is in {here} only; add {there / name} or remove it.")
        return names, train, test
    names, samples = list_images(folder)
    tested = split_by_name(samples, TEST_SHARE, "test")
    train = [sample for sample, out in zip(samples, tested, strict=True) if not out]
    test = [sample for sample, out in zip(samples, tested, strict=True) if out]
    for label, name in enumerate(names):
        if all(other != label for _, other in test):
            raise DataError(f"{folder / name} has one image; train and test need one each.")
    return names, train, test


def hold_out(train: Sequence[Sample], val_size: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Indices of what is trained and validated on, of images in `folder`.

    Raises:
        DataError: No class has two training images.
    """
    held_out = torch.tensor(split_by_name(train, min(VAL_SHARE, val_size / len(train)), "validation"))
    if not held_out.any():
        raise DataError(f"{folder}: with one training image a class, none is left to validate on.")
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def list_images(folder: Path) -> tuple[list[str], list[Sample]]:
    """Class names in alphabetical order, and the images below their folders.

    Raises:
        DataError: No such folder, fewer than 2 classes, or a class without an image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with a folder of images for each class.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} folders; expected one for each of at least 2 classes.")
    samples: list[Sample] = []
    for label, name in enumerate(names):
        images = [
            (path, label)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")
        ]
        if not images:
            raise DataError(f"{folder / name} has no image ({', '.join(IMG_EXTENSIONS)}).")
        samples += images
    return names, samples


def split_by_name(samples: Sequence[Sample], share: float, purpose: str) -> list[bool]:
    """Which images are held out: about `share` of each class, but from 2 images on, one and not all."""
    ranks = np.array([_rank(path, purpose) for path, _ in samples])
    labels = np.array([label for _, label in samples])
    held_out = ranks < share
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ordered = members[np.argsort(ranks[members], kind="stable")]
        held_out[ordered[0]] |= len(members) > 1
        held_out[ordered[-1]] = False
    return [bool(out) for out in held_out]


def _rank(path: Path, purpose: str) -> float:
    """In [0, 1), from the image's class and name alone."""
    digest = hashlib.sha256(f"{purpose}/{path.parent.name}/{path.name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


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
            "or dataset=photographs, which decodes them as they are needed."
        )
    pixels = np.empty((len(paths), resolution, resolution, 3), dtype=np.uint8)
    grey = True
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(pool.map(lambda path: decode(path, resolution), paths)):
            pixels[index] = image
            grey = grey and bool((image == image[..., :1]).all())
    if grey:
        pixels = pixels[..., :1].copy()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def decode(path: Path, resolution: int) -> np.ndarray:
    """uint8 (resolution, resolution, 3): upright, shorter side scaled, middle cropped.

    Raises:
        DataError: Not a readable image.
    """
    return np.asarray(ImageOps.fit(open_image(path), (resolution, resolution), Image.Resampling.BILINEAR))


def open_image(path: Path) -> Image.Image:
    """Upright, in colour, 8 bits.

    Raises:
        DataError: Not a readable image.
    """
    try:
        with Image.open(path) as file:
            return in_colour(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}). Repair or delete it.") from error


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1]; images are uint8 (N, C, H, W)."""
    values = np.arange(256) / 255
    means, spreads = [], []
    for channel in images.unbind(1):
        counts = np.bincount(channel.flatten().numpy(), minlength=256)
        mean = float(np.average(values, weights=counts))
        variance = float(np.average((values - mean) ** 2, weights=counts))
        means.append(mean)
        spreads.append(max(variance, 1e-6) ** 0.5)  # a constant channel stays finite
    return tuple(means), tuple(spreads)

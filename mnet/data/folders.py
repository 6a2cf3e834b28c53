"""A folder of images for each class: finding the files, and splitting them by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from mnet.errors import DataError

TEST_SHARE = 0.2
"""Share of images for the test, in a folder without a train and a test folder."""
VAL_SHARE = 0.1
"""Largest share of the training images for validation."""

Sample = tuple[Path, int]
"""An image file and its class."""


def list_splits(folder: Path) -> tuple[list[str], list[Sample], list[Sample]]:
    """Class names, and the images of train and test.

    Raises:
        DataError: Missing or empty folders, fewer than 2 classes, or a class that is only in train or only in test.
    """
    parts = [folder / part for part in ("train", "test")]
    if any(part.is_dir() for part in parts):
        for part in parts:
            if not part.is_dir():
                raise DataError(f"{part} is missing, but its counterpart exists. Provide both, or neither.")
        (names, train), (test_names, test) = (list_images(part) for part in parts)
        for name in sorted(set(names) ^ set(test_names)):
            present, missing = parts if name in names else reversed(parts)
            raise DataError(f"class {name!r} is in {present} only; add {missing / name} or remove it.")
        return names, train, test
    names, samples = list_images(folder)
    in_test = split_by_name(samples, TEST_SHARE, "test")
    train = [sample for sample, held_out in zip(samples, in_test, strict=True) if not held_out]
    test = [sample for sample, held_out in zip(samples, in_test, strict=True) if held_out]
    for label, name in enumerate(names):
        if all(test_label != label for _, test_label in test):
            raise DataError(f"{folder / name} has one image; train and test need one each.")
    return names, train, test


def hold_out(train: Sequence[Sample], val_size: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images among `train`, the images in `folder`.

    Raises:
        DataError: No class has two training images.
    """
    held_out = torch.tensor(split_by_name(train, min(VAL_SHARE, val_size / len(train)), "validation"))
    if not held_out.any():
        raise DataError(f"{folder} has one training image per class, which leaves none for validation.")
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
    """Which images are held out: about `share` of each class; of 2 or more images at least one, and never all."""
    ranks = np.array([_rank(path, purpose) for path, _ in samples])
    labels = np.array([label for _, label in samples])
    held_out = ranks < share
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ordered = members[np.argsort(ranks[members], kind="stable")]
        held_out[ordered[0]] |= len(members) > 1
        held_out[ordered[-1]] = False
    return [bool(flag) for flag in held_out]


def _rank(path: Path, purpose: str) -> float:
    """A number in [0, 1) that depends only on the image's class and name."""
    digest = hashlib.sha256(f"{purpose}/{path.parent.name}/{path.name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

"""Folders with one folder of images per class: find the classes and split their images by name."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from mnet.data.decoding import IMAGE_SUFFIXES
from mnet.data.walk import find_images, list_folders, walk
from mnet.errors import DataError, counted, path_text

TEST_SHARE = 0.2
"""Share of images for the test set, in a folder without split folders."""
VAL_SHARE = 0.1
"""Largest share of the training images for validation."""
SPLITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
)
"""Split -> names of its folder, in upper or lower case."""

Sample = tuple[Path, int]
"""An image file and its class."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder, by split."""

    folder: Path
    class_names: tuple[str, ...]
    """In the order of the labels; printable even if a folder's name is not UTF-8."""
    train: tuple[Sample, ...]
    """Validation included, unless the user has a validation split."""
    val: tuple[Sample, ...] | None
    """The user's own validation split; None: `split` holds it out of `train`."""
    test: tuple[Sample, ...]
    left_out: Mapping[str, int]
    """Number of unused files by kind, such as `.txt`, `hidden`, `in extra`."""
    test_folder: str | None = None
    """Name of the user's validation folder, if its images are the test set."""

    def __str__(self) -> str:
        """Such as `2 classes, 22 training and 6 test images, 36 files left out: 36 .heic`."""
        counts = [f"{len(self.train):,} training"]
        if self.val is not None:
            counts.append(f"{len(self.val):,} validation")
        *most, last = [*counts, f"{len(self.test):,} test images"]
        parts = [f"{len(self.class_names)} classes", f"{', '.join(most)} and {last}"]
        if self.test_folder is not None:
            parts[-1] += f" (those of {path_text(self.test_folder)})"
        if total := sum(self.left_out.values()):
            kinds = ", ".join(f"{count:,} {path_text(kind)}" for kind, count in self.left_out.items())
            parts.append(f"{counted(total, 'file')} left out: {kinds}")
        return ", ".join(parts)

    @property
    def train_and_val(self) -> tuple[Sample, ...]:
        """The training and validation images."""
        return self.train + (self.val or ())

    @property
    def all(self) -> tuple[Sample, ...]:
        """The images of every split."""
        return self.train_and_val + self.test

    def split(self, val_size: int) -> tuple[Tensor, Tensor]:
        """Indices of training and validation images among `train_and_val`.

        Raises:
            DataError: As `hold_out`.
        """
        if self.val is None:
            return hold_out(self.train, val_size, self.folder)
        count = len(self.train)
        return torch.arange(count), torch.arange(count, count + len(self.val))


def list_folder(folder: Path) -> Listing:
    """The images below a folder that has class folders, or split folders with the same class folders in each.

    Split folders are `train` and `test`, with or without `val`, under any of the names in `SPLITS`. If there are only
    `train` and `val`, `val` is the test set, as in ImageNet's layout and its readers, and validation images are held
    out of `train`. Without split folders, the test set is a fixed part of the images, chosen by name.

    Raises:
        DataError: Missing or empty folders, fewer than 2 classes, a class that is not in every split or has too few
            images, or as `find_splits`.
    """
    left_out: Counter[str] = Counter()
    inside = list_folders(folder, left_out)
    splits = find_splits(folder, inside)
    if splits:
        for path in sorted(set(inside) - set(splits.values())):
            left_out[f"in {path.name}"] += sum(1 for _ in walk(path, Counter()))
        found = {split: list_images(path, left_out) for split, path in splits.items()}
        check_same_classes(splits, {split: [path.name for path in classes] for split, (classes, _) in found.items()})
        classes, train = found["train"]
        tested = "test" if "test" in splits else "val"
        val = found["val"][1] if tested == "test" and "val" in splits else None
        test, test_folder = found[tested][1], splits["val"].name if tested == "val" else None
    else:
        classes, samples = list_images(folder, left_out, inside)
        in_test = split_by_name(samples, TEST_SHARE, "test")
        train = [sample for sample, held_out in zip(samples, in_test, strict=True) if not held_out]
        test = [sample for sample, held_out in zip(samples, in_test, strict=True) if held_out]
        val = test_folder = None
        for label, path in enumerate(classes):
            if all(test_label != label for _, test_label in test):
                raise DataError(f"{path_text(path)} has one image; train and test need one each.")
    names = tuple(path_text(path.name) for path in classes)
    counts = {kind: count for kind, count in left_out.most_common() if count}
    return Listing(folder, names, tuple(train), None if val is None else tuple(val), tuple(test), counts, test_folder)


def hold_out(train: Sequence[Sample], val_size: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Indices of training and validation images among `train`, the images in `folder`.

    Raises:
        DataError: No class has two training images.
    """
    held_out = torch.tensor(split_by_name(train, min(VAL_SHARE, val_size / len(train)), "validation"))
    if not held_out.any():
        raise DataError(f"{path_text(folder)} has one training image per class, which leaves none for validation.")
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def find_splits(folder: Path, inside: Sequence[Path]) -> dict[str, Path]:
    """The split folders among those `inside` a folder; none if these are classes.

    Raises:
        DataError: Two folders for one split, an incomplete set of split folders, or names that resemble split names.
    """
    splits: dict[str, Path] = {}
    for path in inside:
        split = next((split for split, names in SPLITS.items() if path.name.lower() in names), None)
        if split in splits:
            raise DataError(
                f"{path_text(path)} and {path_text(splits[split].name)} are both {split}; keep one of them."
            )
        if split is not None:
            splits[split] = path
    if not splits:
        check_names(folder, inside)
    elif not ("train" in splits and len(splits) > 1):
        given = next(iter(splits.values()))
        missing = folder / ("test" if "train" in splits else "train")
        others = [path_text(path.name) for path in inside if path not in splits.values()]
        beside = f" It is next to {', '.join(others[:3])}; if it is a class like these, rename it." if others else ""
        raise DataError(
            f"{path_text(missing)} is missing, but {path_text(given.name)} looks like a split, which has a folder for "
            f"each class. Provide both, or give data_dir={path_text(given)} to split its images.{beside}"
        )
    return splits


def check_names(folder: Path, inside: Sequence[Path]) -> None:
    """
    Raises:
        DataError: Folders whose names differ only in a split name, such as seg_train and seg_test.
    """
    looks: dict[str, dict[str, Path]] = {}
    for path in inside:
        for split, names in SPLITS.items():
            pattern = rf"(?<![a-z])({'|'.join(sorted(names, key=len, reverse=True))})(?=set|data|images|[^a-z]|$)"
            rest, found = re.subn(pattern, "", path.name.lower())
            if found:
                looks.setdefault(rest, {})[split] = path
    for splits in looks.values():
        if "train" in splits and len(splits) > 1:
            given, wanted = (", ".join(names) for names in ((path_text(p.name) for p in splits.values()), splits))
            raise DataError(
                f"{path_text(folder)} has {given}, which look like splits, not classes; call them {wanted}."
            )


def check_same_classes(splits: Mapping[str, Path], names: Mapping[str, Sequence[str]]) -> None:
    """
    Raises:
        DataError: A class that is not in every split.
    """
    for name in sorted(set().union(*names.values())):
        lacking = [split for split in splits if name not in names[split]]
        if lacking:
            present = next(path for split, path in splits.items() if name in names[split])
            only = "only" if len(lacking) == len(splits) - 1 else f"and not in {splits[lacking[0]].name}"
            raise DataError(
                f"class {path_text(name)!r} is in {path_text(present)} {only}; "
                f"add {path_text(splits[lacking[0]] / name)} or remove it."
            )


def list_images(
    folder: Path, left_out: Counter[str], classes: Sequence[Path] | None = None
) -> tuple[Sequence[Path], list[Sample]]:
    """Class folders in alphabetical order, and the images below them.

    Raises:
        DataError: No such folder, fewer than 2 classes, or a class without an image.
    """
    classes = list_folders(folder, left_out) if classes is None else classes
    if len(classes) < 2:
        hint = ""
        if len(classes) == 1 and (below := list_folders(classes[0], Counter())):
            hint = f" {path_text(classes[0])} has {len(below)}; did you mean data_dir={path_text(classes[0])}?"
        raise DataError(
            f"{path_text(folder)} has {len(classes)} folders; expected one for each of at least 2 classes.{hint}"
        )
    samples: list[Sample] = []
    for label, path in enumerate(classes):
        images = find_images(path, left_out)
        if not images:
            raise DataError(f"{path_text(path)} has no image ({', '.join(IMAGE_SUFFIXES)}).")
        samples += [(image, label) for image in images]
    return classes, samples


def split_by_name(samples: Sequence[Sample], share: float, purpose: str) -> list[bool]:
    """Which images are held out: about `share` of each class, at least one if it has 2 or more, and never all."""
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
    """A number in [0, 1) that depends only on `purpose` and the names of the image and its folder."""
    digest = hashlib.sha256(os.fsencode(f"{purpose}/{path.parent.name}/{path.name}")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

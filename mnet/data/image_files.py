"""Classification data sets of image files: decoded once, into memory or into a memory-mapped file.

The base of a user's own images, ImageNet and Imagenette.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnet.data.decoded import DecodedImages, DecodedSettings, Images
from mnet.data.fitting import read_pixels, read_size
from mnet.data.folders import Listing, Sample
from mnet.data.store import ImageStore
from mnet.data.store_build import Build, Layout
from mnet.errors import DataError, path_text
from mnet.resources import Storage

SAMPLED = 5000
"""Largest number of training images from which mean and standard deviation are computed."""


@dataclass(frozen=True, kw_only=True)
class FileSettings(DecodedSettings):
    """Settings of a data set of image files."""

    storage: Storage = "auto"
    """Where decoded images are held: memory; disk = in the folder `MNET_CACHE`, shared by all runs; auto = memory if a
    quarter of the free memory is enough. Results do not depend on it."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read; otherwise stop."""


class ImageFiles(DecodedImages):
    """A classification data set of image files. A subclass implements `list_files`.

    Images are scaled by the shorter side and cropped to the middle square; for random resized crops the whole image is
    kept, at the same scale.
    """

    settings_type = FileSettings
    settings: FileSettings
    native_resolution = 224
    crop_share: ClassVar[float] = 1.0
    """Side of the evaluation crop over the shorter side of an image."""
    colour: ClassVar[bool] = False
    """Whether there are three channels even if every image is grey."""

    @abstractmethod
    def list_files(self) -> Listing:
        """The images of every split.

        Raises:
            DataError: Missing files or folders.
        """

    @cached_property
    def listing(self) -> Listing:
        """The images that are used; after `setup`, without those that cannot be read."""
        return self.list_files()

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: As `list_files`.
        """
        self.class_names = self.listing.class_names
        self.num_classes = len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Decode, or open what was decoded before, and split.

        Raises:
            DataError: As `prepare_data`; an unreadable image; or too little memory or disk space.
        """
        if self._splits:
            return
        self.prepare_data()
        samples = self.listing.all
        store = Build(
            items=[path for path, _ in samples],
            read=partial(read_pixels, **asdict(self.layout)),
            size_of=read_size,
            layout=self.layout,
            key=self.store_key,
            storage=self.settings.storage,
            skip_unreadable=self.settings.skip_unreadable,
            channels=3 if self.colour else None,
        ).make()
        if store.unreadable:
            self.listing = without(self.listing, {samples[index][0] for index in store.unreadable})
        rows = torch.tensor([index for index in range(len(samples)) if index not in store.unreadable])
        count = len(self.listing.train_and_val)
        labels = torch.tensor([label for _, label in self.listing.all])
        chosen, held_out = self.split(labels[:count])
        parts = {"train": chosen, "val": held_out, "test": torch.arange(count, len(rows))}
        self._splits = {name: Images(store, labels[part], rows[part]) for name, part in parts.items()}
        self.in_channels, self._whole = store.channels, self.layout.whole
        if not hasattr(self, "mean"):
            self.mean, self.std = channel_statistics(store, rows[chosen])

    @property
    def test_labels(self) -> Tensor:
        """(N,) int64, in the order of the test set."""
        labels: Tensor = self._splits["test"].labels
        return labels

    @property
    def layout(self) -> Layout:
        """How images are scaled and cropped before they are stored."""
        augment = self.settings.augment
        whole = augment is not None and augment.resized
        side = round(self.resolution / self.crop_share) if whole else self.resolution
        return Layout(side, whole, 1.0 if whole else self.crop_share)

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        Raises:
            DataError: Too few images to hold out one.
        """
        return self.listing.split(self.settings.val_size)

    def store_key(self) -> str:
        """Identifies the images to decode, by path, size and modification time."""
        digest = hashlib.sha256()
        for path, _ in self.listing.all:
            stat = path.stat()
            digest.update(os.fsencode(path.resolve()) + f"\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
        return digest.hexdigest()

    @property
    def shared_bytes(self) -> int:
        store = self._splits["train"].images
        return store.nbytes if store.folder is None else 0

    def images_on(self, split: str, device: torch.device | None = None) -> Images:
        store, labels, rows = super().images_on(split, device)
        return Images(store, labels, rows) if self._whole else Images(store.uniform(), labels, store.ranks()[rows])


def without(listing: Listing, unreadable: set[Path]) -> Listing:
    """A listing without some of its images.

    Raises:
        DataError: A class has no image left to train on or to test.
    """

    def rest(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if sample[0] not in unreadable)

    val = None if listing.val is None else rest(listing.val)
    left_out = {**listing.left_out, "unreadable": len(unreadable)}
    result = replace(listing, train=rest(listing.train), val=val, test=rest(listing.test), left_out=left_out)
    for label, name in enumerate(listing.class_names):
        for split, samples in (("training", result.train), ("test", result.test)):
            if all(other != label for _, other in samples):
                raise DataError(f"class {name!r} in {path_text(listing.folder)} has no readable {split} image.")
    return result


def channel_statistics(store: ImageStore, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1], of at most `SAMPLED` images among `rows`."""
    counts = np.zeros((store.channels, 256))
    for row in rows[:: -(-len(rows) // SAMPLED)].tolist():
        for channel, values in enumerate(store[row].numpy().reshape(-1, store.channels).T):
            counts[channel] += np.bincount(values, minlength=256)
    levels = np.arange(256) / 255
    means = [float(np.average(levels, weights=count)) for count in counts]
    variances = [float(np.average((levels - mean) ** 2, weights=n)) for mean, n in zip(means, counts, strict=True)]
    return tuple(means), tuple(max(variance, 1e-6) ** 0.5 for variance in variances)  # a constant channel stays finite

"""The base of ImageNet and Imagenette: image files of published train and val splits, in torchvision's layout."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torchvision
from torch import Tensor

from mnet.data.folders import Listing
from mnet.data.image_files import FileSettings, ImageFiles
from mnet.data.splits import stratified_split
from mnet.errors import DataError, path_text

Split = Literal["train", "val"]
"""A published split."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's training mean and standard deviation per channel, as published networks expect them."""


@dataclass(frozen=True, kw_only=True)
class PublishedFileSettings(FileSettings):
    """Settings of ImageNet and Imagenette."""

    val_size: int = 1000


class PublishedFiles(ImageFiles):
    """Validation images are a fixed part of the published train split; the published val split is the test set.

    A subclass implements `source`.
    """

    settings_type = PublishedFileSettings
    settings: PublishedFileSettings
    in_channels = 3
    colour = True
    crop_share = 224 / 256
    mean, std = MEAN, STD

    @abstractmethod
    def source(self, split: Split) -> torchvision.datasets.DatasetFolder:
        """A published split, as torchvision lists it.

        Raises:
            DataError: Missing or unreadable files.
        """

    def list_files(self) -> Listing:
        train, test = (self.check_classes(self.source(split)) for split in ("train", "val"))
        if found := self.other_sizes("classification", len(train.samples), len(test.samples)):
            raise DataError(
                f"{path_text(self.data_dir)} has {found}: unpack all of it again; for your own images "
                "use dataset=imagefolder"
            )
        samples = [tuple((Path(path), label) for path, label in part.samples) for part in (train, test)]
        return Listing(self.data_dir, self.names(train), samples[0], None, samples[1], {})

    def names(self, source: torchvision.datasets.DatasetFolder) -> tuple[str, ...]:
        """Names of the classes."""
        return self.class_names

    def check_classes(self, source: torchvision.datasets.DatasetFolder) -> torchvision.datasets.DatasetFolder:
        """
        Raises:
            DataError: Class folders are missing.
        """
        if len(source.classes) != self.num_classes:
            raise DataError(
                f"{source.root} has {len(source.classes)} class folders, {self.name} has "
                f"{self.num_classes}; unpack the archive again."
            )
        return source

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        return stratified_split(labels, self.settings.val_size)

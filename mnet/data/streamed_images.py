"""Image files with one class each, decoded in every epoch: the base of ImageNet, Imagenette and Photographs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal, TypeVar

import torch
import torchvision
from torch import Tensor
from torch.utils.data import default_collate

from mnet.data.augment import normalise, scale_and_shift
from mnet.data.batches import Batch
from mnet.data.decoding import CentreCrop, RandomCrop
from mnet.data.splits import stratified_split
from mnet.data.streams import StreamedData, StreamedDataset, StreamLoader
from mnet.errors import DataError

Folder = TypeVar("Folder", bound=torchvision.datasets.DatasetFolder)
Split = Literal["train", "val"]
"""A published split. The published val is the test; validation is part of train."""


class NormalisingLoader(StreamLoader):
    """Workers send bytes, a quarter of the size of floats; batches are normalised in the main process."""

    def __init__(self, images: Sized, *, mean: Sequence[float], std: Sequence[float], **settings: Any) -> None:
        super().__init__(images, collate=default_collate, **settings)
        self._scale, self._shift = scale_and_shift(mean, std)

    def __iter__(self) -> Iterator[Batch]:
        for pixels, labels in super().__iter__():
            yield normalise(pixels.permute(0, 3, 1, 2), self._scale, self._shift), labels


class StreamedImages(StreamedData):
    """A classification data set of image files. A subclass implements `source`.

    Validation is a fixed part of train; the published validation set is the test.
    """

    native_resolution = 224

    @abstractmethod
    def source(self, split: Split) -> Any:
        """The published split: images and classes by index, `samples` (path and class), and what `split` needs.

        Raises:
            DataError: Missing folders.
        """

    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        """Indices of training and validation images among those of train."""
        return stratified_split(torch.tensor(train.targets), self.settings.val_size)

    def prepare_data(self) -> None:
        self.source("train")
        self.source("val")

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        train, test = self.source("train"), self.source("val")
        chosen, held_out = self.split(train)
        augment, plain, seed = RandomCrop(self.resolution), CentreCrop(self.resolution), self.settings.seed
        self._splits = {
            "train": StreamedDataset(train, chosen, augment, seed),
            "val": StreamedDataset(train, held_out, plain, seed),
            "test": StreamedDataset(test, torch.arange(len(test)), plain, seed),
        }

    def check_classes(self, source: Folder) -> Folder:
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

    def loader(self, images: Sized, **settings: Any) -> StreamLoader:
        return NormalisingLoader(images, mean=self.mean, std=self.std, **settings)

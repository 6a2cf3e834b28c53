"""Image files with one class each, decoded in every epoch: the base of ImageNet, Imagenette and Photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, TypeVar

import torch
import torchvision
from torch import Tensor
from torch.utils.data import default_collate

from mnet.data.augment import normalise, scale_and_shift
from mnet.data.batches import Batch
from mnet.data.decoding import CentreCrop, RandomCrop
from mnet.data.splits import stratified_split
from mnet.data.streams import StreamedData, StreamLoader
from mnet.errors import DataError

Folder = TypeVar("Folder", bound=torchvision.datasets.DatasetFolder)


class NormalisingLoader(StreamLoader):
    """Workers send bytes, a quarter of the size of floats; batches are normalised in the main process."""

    def __init__(self, images: Sized, *, mean: Sequence[float], std: Sequence[float], **settings: Any) -> None:
        super().__init__(images, collate=default_collate, **settings)
        self._scale, self._shift = scale_and_shift(mean, std)

    def __iter__(self) -> Iterator[Batch]:
        for pixels, labels in super().__iter__():
            yield normalise(pixels.permute(0, 3, 1, 2), self._scale, self._shift), labels


class StreamedImages(StreamedData):
    """A classification data set of image files.

    A subclass implements `source`: images and classes by index, with `samples` (path and class) and `targets`.
    """

    native_resolution = 224

    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        return stratified_split(torch.tensor(train.targets), self.settings.val_size)

    def transforms(self) -> tuple[RandomCrop, CentreCrop]:
        return RandomCrop(self.resolution), CentreCrop(self.resolution)

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

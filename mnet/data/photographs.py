"""A user's own images, decoded in every epoch: for more of them than fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from mnet.data.decoding import open_lazily
from mnet.data.folders import Listing, Sample, list_folder
from mnet.data.streamed_images import StreamedImages
from mnet.data.streams import Split


class Photographs(StreamedImages):
    """The same folders and splits as `ImageFolder`, decoded when needed, normalised with ImageNet's statistics.

    `num_classes` and `class_names` are set after `prepare_data()`.
    """

    name = "photographs"
    named_by_files = True

    @cached_property
    def listing(self) -> Listing:
        return list_folder(self.data_dir)

    def source(self, split: Split) -> ImageList:
        self.class_names, self.num_classes = self.listing.class_names, len(self.listing.class_names)
        return ImageList(self.listing.train_and_val if split == "train" else self.listing.test)

    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        return self.listing.split(self.settings.val_size)


class ImageList:
    """Image files and their classes; a file is opened when its index is asked for."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return open_lazily(path), label

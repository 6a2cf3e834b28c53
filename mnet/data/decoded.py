"""Data sets whose images are decoded once, then cut into batches without worker processes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from mnet.data.augment import Augment
from mnet.data.batches import Batches
from mnet.data.module import DataSettings, ImageData
from mnet.data.splits import stratified_split
from mnet.data.targets import Targets

_CHUNK = 2048  # images resized at once


@dataclass(frozen=True, kw_only=True)
class DecodedSettings(DataSettings):
    """Settings of a data set that is decoded once."""

    augment: Augment | None = None
    """Random changes to training images; None is the data set's `flip_crop`."""


GPU_SHARE = 0.5
"""Images are held on a GPU if they fit in this share of its free memory."""


class Images(NamedTuple):
    """Raw images with their labels."""

    images: Any
    """(N, C, H, W) uint8; or an `ImageStore`"""
    labels: Any
    """(N,) int64; or boxes or masks (`mnet.data.targets`)"""
    rows: Tensor | None = None
    """(N,) int64, indices of the images to use; None = all."""


class DecodedImages(ImageData):
    """A data set decoded once. A subclass implements `setup`, which fills `_splits`."""

    settings_type = DecodedSettings
    settings: DecodedSettings
    loader: ClassVar[type[Batches]] = Batches
    """`TargetBatches` for boxes or masks."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._splits: dict[str, Images] = {}
        self._on_device: dict[tuple[int, torch.device], Any] = {}

    def for_run(self, batch_size: int, seed: int, augment: Augment | None = None) -> Self:
        data = super().for_run(batch_size, seed)
        data.settings = replace(data.settings, augment=augment)
        return data

    def share(self) -> None:
        """Move the images to shared memory, so that processes that receive this data set need no copy."""
        for part in self._splits.values():
            part.images.share_memory_()
            part.labels.share_memory_()

    @property
    def shared_bytes(self) -> int:
        """Bytes that `share` would move."""
        return sum(part.images.nbytes + part.labels.nbytes for part in self._splits.values())

    def train_dataloader(self) -> Batches:
        return self.batches("train", train=True)

    def val_dataloader(self) -> Batches:
        return self.batches("val")

    def test_dataloader(self) -> Batches:
        return self.batches("test")

    def images_on(self, split: str, device: torch.device | None = None) -> Images:
        """A split, with its images on a device: copied to a GPU once, if they fit there.

        Args:
            split: 'train', 'val' or 'test'.
            device: None is `self.device`.
        """
        images, labels, rows = self._splits[split]
        device = device or self.device
        if device.type != "cuda":
            return Images(images, labels, rows)
        key = id(images), device  # splits of a user's own images share a store
        if key not in self._on_device and images.nbytes < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._on_device[key] = images.to(device)
        return Images(self._on_device.get(key, images), labels.to(device), rows)

    def batches(self, split: str, *, train: bool = False, device: torch.device | None = None) -> Batches:
        """A loader over 'train', 'val' or 'test'; `train` shuffles and augments, `device` as for `images_on`."""
        images, labels, rows = self.images_on(split, device)
        augment = self.settings.augment
        return self.loader(
            images,
            labels,
            rows=rows,
            side=self.resolution,
            device=device or self.device,
            batch_size=self.settings.batch_size,
            mean=self.mean,
            std=self.std,
            train=train,
            augment=self.flip_crop if augment is None else augment,
            seed=self.settings.seed,
            shard=self.shard,
        )


class InMemoryImages(DecodedImages):
    """A data set that always fits in memory. A subclass implements `read`."""

    @abstractmethod
    def read(self) -> tuple[Images, Images]:
        """Training (validation included) and test images, at any size.

        Raises:
            DataError: Missing, truncated or corrupt files.
        """

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of training and validation images in the published training set."""
        return stratified_split(labels, self.settings.val_size)

    def setup(self, stage: str | None = None) -> None:
        """Read, resize and split, once."""
        if self._splits:
            return
        train, test = (Images(resize(part.images, self.resolution), part.labels) for part in self.read())
        chosen, held_out = self.split(train.labels)
        self._splits = {
            "train": channels_last(train.images[chosen], train.labels[chosen]),
            "val": channels_last(train.images[held_out], train.labels[held_out]),
            "test": channels_last(test.images, test.labels),
        }


def channels_last(images: Tensor, labels: Tensor | Targets) -> Images:
    """Images in the memory layout of `Batches`, so that all loaders share their bytes."""
    return Images(images.contiguous(memory_format=torch.channels_last), labels)


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize uint8 (N, C, H, W) to (N, C, resolution, resolution), antialiased."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    result = torch.empty((*images.shape[:2], resolution, resolution), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        result[start : start + _CHUNK] = TF.resize(part, [resolution, resolution], antialias=True)
    return result

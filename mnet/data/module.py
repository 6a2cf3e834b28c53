"""What every data set offers a classifier, and the base of those that fit in memory."""

from __future__ import annotations

import copy
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from mnet.data.augment import Augment
from mnet.data.batches import ALL, Batches, Shard
from mnet.data.targets import Targets
from mnet.errors import ConfigError

VAL_SIZE = 5000
_SPLIT_SEED = 20171021  # of the validation split, the same in every study: never the seed of a run
_CHUNK = 2048  # images resized at once


class ImageData(L.LightningDataModule):
    """A classification data set: what a classifier needs to know, and the loaders.

    `num_classes`, `in_channels`, `resolution` and `class_names` may be read after `prepare_data()` and
    `setup()`; where the data set is a published one, at once.
    """

    name: str
    """As in `DATASETS`."""
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Of `mnet.tasks.TASKS`: what its images can be learned for."""
    native_resolution: ClassVar[int]
    """Side in pixels when `resolution` is None."""
    train_size: ClassVar[int | None] = None
    """Images in the published training set, validation included."""
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]."""
    std: tuple[float, ...]

    def __init__(self, *, data_dir: Path, batch_size: int, resolution: int | None, seed: int, val_size: int) -> None:
        """
        Raises:
            ConfigError: A setting that no data set could satisfy.
        """
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; at least 1.")
        if resolution is not None and resolution < 1:
            raise ConfigError(f"resolution is {resolution}; pixels from 1 on, or None for the data's own.")
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed is {seed}; from 0 to 2**32 - 1.")
        if val_size < 1:
            raise ConfigError(f"val_size is {val_size}; at least 1, for models are chosen on validation.")
        if self.train_size is not None:
            check_val_size(val_size, self.train_size)
        self.data_dir = Path(data_dir)
        self.batch_size = batch_size
        self.resolution = self.native_resolution if resolution is None else resolution
        self.seed = seed
        self.val_size = val_size

    @classmethod
    def classes(cls, task: str) -> int | None:
        """Classes of the data set for a task; None = only the images tell."""
        return getattr(cls, "num_classes", None)

    named_by_files: ClassVar[bool] = False
    """Whether only the files tell what the classes are called."""

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation as images (C, H, W) take them: (C, 1, 1)."""
        mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (self.mean, self.std))
        return mean, std

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the network's classes are called, the background of segmentation too."""
        return self.class_names

    def for_run(self, batch_size: int, seed: int, augment: Augment | None = None) -> Self:
        """The same images, not read again, for another run.

        Args:
            batch_size: images per batch.
            seed: of order and augmentation.
            augment: None is the data set's default.
        """
        data = copy.copy(self)
        data.batch_size, data.seed = batch_size, seed
        return data

    @property
    def device_share(self) -> Shard:
        """This device's part of every training batch."""
        return ALL if self.trainer is None else Shard(self.trainer.global_rank, self.trainer.world_size)


class Images(NamedTuple):
    """Raw images and what they show."""

    images: Tensor
    """(N, C, H, W) uint8"""
    labels: Any
    """(N,) int64; or boxes or masks (`mnet.data.targets`)"""


class InMemoryImages(ImageData):
    """A data set decoded once into memory. A subclass says how to read it (`read`)."""

    default_augment: ClassVar[Augment]
    loader: ClassVar[type[Batches]] = Batches
    """`TargetBatches` of boxes or masks."""

    def __init__(
        self,
        *,
        data_dir: Path = Path("data"),
        batch_size: int = 128,
        resolution: int | None = None,
        seed: int = 0,
        val_size: int = VAL_SIZE,
        augment: Augment | None = None,
    ) -> None:
        """
        Args:
            data_dir: where the data set's own folder is.
            batch_size: images per batch.
            resolution: side in pixels to resize to; None keeps the data's own.
            seed: of training order and augmentation, not of the split.
            val_size: images taken from train for validation, always the same ones.
            augment: None is the data set's default.
        """
        super().__init__(data_dir=data_dir, batch_size=batch_size, resolution=resolution, seed=seed, val_size=val_size)
        self.augment = self.default_augment if augment is None else augment
        self._splits: dict[str, Images] = {}
        self._there: dict[tuple[str, torch.device], Images] = {}

    @abstractmethod
    def read(self) -> tuple[Images, Images]:
        """Train (validation included) and test, at any size.

        Raises:
            DataError: Missing, truncated or corrupt files.
        """

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (into the images of train) of those to train on and those for validation."""
        return stratified_split(labels, self.val_size)

    def setup(self, stage: str | None = None) -> None:
        """Read, resize and split, once."""
        if self._splits:
            return
        train, test = (Images(resize(part.images, self.resolution), part.labels) for part in self.read())
        chosen, held_out = self.split(train.labels)
        self._splits = {
            "train": as_batches_want(train.images[chosen], train.labels[chosen]),
            "val": as_batches_want(train.images[held_out], train.labels[held_out]),
            "test": as_batches_want(*test),
        }

    def for_run(self, batch_size: int, seed: int, augment: Augment | None = None) -> Self:
        data = super().for_run(batch_size, seed)
        data.augment = self.default_augment if augment is None else augment
        return data

    def share(self) -> None:
        """Move the images to memory that processes this data set is sent to use without a copy."""
        for part in self._splits.values():
            part.images.share_memory_()
            part.labels.share_memory_()

    @property
    def nbytes(self) -> int:
        """Size of the images in memory."""
        return sum(part.images.nbytes + part.labels.nbytes for part in self._splits.values())

    def train_dataloader(self) -> Batches:
        return self.batches("train", train=True)

    def val_dataloader(self) -> Batches:
        return self.batches("val")

    def test_dataloader(self) -> Batches:
        return self.batches("test")

    def placed(self, split: str, device: torch.device | None = None) -> Images:
        """A split where it is trained on: on a GPU its bytes are there once, and no batch is sent to it. By default
        that is where the Trainer trains."""
        found = self._splits[split]
        if device is None:
            device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if device.type != "cuda":
            return found
        if (split, device) not in self._there:
            self._there[split, device] = Images(found.images.to(device), found.labels.to(device))
        return self._there[split, device]

    def batches(self, split: str, *, train: bool = False, device: torch.device | None = None) -> Batches:
        """A loader over 'train', 'val' or 'test'; `train` shuffles and augments. `device` as for `placed`."""
        images, labels = self.placed(split, device)
        return self.loader(
            images,
            labels,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            train=train,
            augment=self.augment,
            seed=self.seed,
            share=self.device_share,
        )


def as_batches_want(images: Tensor, labels: Tensor | Targets) -> Images:
    """Pixel by pixel in memory, so that every loader uses these bytes and makes no copy."""
    return Images(images.contiguous(memory_format=torch.channels_last), labels)


def resize(images: Tensor, resolution: int) -> Tensor:
    """uint8 (N, C, H, W) to (N, C, resolution, resolution), antialiased."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    result = torch.empty((*images.shape[:2], resolution, resolution), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        result[start : start + _CHUNK] = TF.resize(part, [resolution, resolution], antialias=True)
    return result


def check_val_size(val_size: int, train_size: int) -> None:
    """
    Raises:
        ConfigError: Validation would leave nothing to train on.
    """
    if val_size >= train_size:
        raise ConfigError(f"val_size is {val_size}, train has {train_size} images; at most {train_size - 1}.")


def stratified_split(labels: Tensor, val_size: int) -> tuple[Tensor, Tensor]:
    """Indices (train, validation), each in ascending order and in the proportions of the classes.

    A pure function of labels and size. Quotas are rounded by largest remainder, so they add up to `val_size`.

    Raises:
        ConfigError: val_size is not below the number of labels.
    """
    check_val_size(val_size, len(labels))
    found = labels.numpy()
    classes, counts = np.unique(found, return_counts=True)
    exact = counts * (val_size / len(found))
    quotas = np.floor(exact).astype(int)
    most = np.argsort(quotas - exact, kind="stable")[: val_size - quotas.sum()]
    quotas[most] += 1
    generator = np.random.default_rng(_SPLIT_SEED)
    held_out = np.zeros(len(found), dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        held_out[generator.permutation(np.flatnonzero(found == label))[:quota]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))

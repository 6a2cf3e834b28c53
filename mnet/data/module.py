"""The interface of every data set: settings, the properties of its images that a network needs, and loaders.

It does not import Lightning, so that a program that needs only a name or a size starts without it;
`mnet.studies.runs.datamodule` passes a run's images to Lightning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self, TypedDict

import torch
from torch import Tensor

from mnet.data.augment import RESIZED_CROP, UNCHANGED, Augment
from mnet.data.batches import ALL, Resumable, Shard
from mnet.data.fingerprint import Files
from mnet.data.splits import check_val_size
from mnet.errors import ConfigError
from mnet.settings import parse
from mnet.training.recipes import Augmentation

VAL_SIZE = 5000


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The settings of every data set."""

    data_dir: Path = Path("data")
    """Folder that contains the data set's own folder."""
    batch_size: int = 128
    """Images per batch, over all devices together."""
    resolution: int | None = None
    """Height and width in pixels; None keeps the data set's own."""
    seed: int = 0
    """Seed of training order and augmentation, not of the split."""
    val_size: int = VAL_SIZE
    """Training images held out for validation, always the same ones."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; expected at least 1.")
        if self.resolution is not None and self.resolution < 1:
            raise ConfigError(
                f"resolution is {self.resolution}; expected at least 1 pixel, or None for the data's own."
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; expected 0 to 2**32 - 1.")
        if self.val_size < 1:
            raise ConfigError(f"val_size is {self.val_size}; expected at least 1: models are chosen on validation.")


class ClassImages(TypedDict):
    """One class of a user's own images: image counts, and a hash of names and contents."""

    train: int
    val: int
    test: int
    digest: str


class Description(TypedDict, total=False):
    """What a run stores about its images: what prediction needs and, for a user's own, what identifies them."""

    dataset: str
    label_names: list[str]
    resolution: int
    in_channels: int
    mean: list[float]
    std: list[float]
    images: str
    """Fingerprint of a user's own images."""
    classes: dict[str, ClassImages]


class ImageData:
    """A data set: the properties of its images that a network needs, and three loaders.

    `num_classes`, `in_channels`, `resolution` and `class_names` are set after `prepare_data()` and `setup()`. A
    published data set has them before, except for class names that are only in its files.
    """

    settings_type: ClassVar[type[DataSettings]] = DataSettings
    settings: DataSettings
    name: str
    """The key in `DATASETS`."""
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """The tasks of `mnet.tasks.TASKS` that its labels allow."""
    native_resolution: ClassVar[int]
    """Height and width in pixels when `resolution` is None."""
    train_size: ClassVar[int | None] = None
    """Images in the published training set, validation included; None for a user's own images."""
    published_sizes: ClassVar[Mapping[str, tuple[int, int]]] = MappingProxyType({})
    """Task -> number of published training and test images, for data sets whose files are not verified by hash."""
    named_by_files: ClassVar[bool] = False
    """Whether the class names are only in the files."""
    is_users: ClassVar[bool] = False
    """Whether the images are a user's own: identified by their fingerprint, not by the data set's name."""
    flip_crop: ClassVar[Augment] = Augment(flip=True)
    """The augmentation that the name `flip_crop` stands for."""
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Mean per channel of training pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    device: torch.device = torch.device("cpu")
    """Where batches are made; the images are held there too if they fit."""
    shard: Shard = ALL
    """This process's part of every training batch."""

    def __init__(self, **settings: object) -> None:
        """
        Args:
            settings: fields of `settings_type`, in any spelling that `mnet.settings.coerce` reads.

        Raises:
            ConfigError: An unknown setting, or a value that cannot be used.
        """
        self.settings = parse(self.settings_type, settings, f"setting of {self.name}")
        if self.train_size is not None:
            check_val_size(self.settings.val_size, self.train_size)
        given = self.settings.resolution
        self.resolution = self.native_resolution if given is None else given

    @property
    def data_dir(self) -> Path:
        return self.settings.data_dir

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def seed(self) -> int:
        return self.settings.seed

    @classmethod
    def other_sizes(cls, task: str, train: int, test: int) -> str:
        """Found and published image counts as text if they differ (another data set, or a part of it); else empty."""
        published = cls.published_sizes.get(task, (train, test))
        if (train, test) == published:
            return ""
        return (
            f"{train:,} training and {test:,} test images of {cls.name}, not the published {published[0]:,} and "
            f"{published[1]:,}"
        )

    @classmethod
    def classes(cls, task: str) -> int | None:
        """Number of classes for a task; None if it is known only from the files."""
        return getattr(cls, "num_classes", None)

    @classmethod
    def augmentation(cls, name: Augmentation) -> Augment:
        """The augmentation that a name stands for."""
        return {"none": UNCHANGED, "flip_crop": cls.flip_crop, "resized_crop": RESIZED_CROP}[name]

    def description(self) -> Description:
        """What a run stores about its images; call after `setup()`."""
        return {
            "dataset": self.name,
            "label_names": list(self.label_names),
            "resolution": self.resolution,
            "in_channels": self.in_channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @cached_property
    def files(self) -> Files:
        """The files of a user's own images and their hashes, from `hash_files`, computed once."""
        return self.hash_files(self.data_dir)

    @classmethod
    def hash_files(cls, data_dir: Path) -> Files:
        """The files of a user's own images in a folder, with their hashes.

        Raises:
            DataError: There are none, or one cannot be read.
        """
        raise NotImplementedError(f"{cls.name} is published: its name identifies its images")

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (C, 1, 1), to broadcast over images (C, H, W)."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return mean, std

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the network's outputs, including the background of segmentation."""
        return self.class_names

    def for_run(self, batch_size: int, seed: int, augment: Augment | None = None) -> Self:
        """A copy for another run that shares the images already read.

        Args:
            batch_size: images per batch.
            seed: seed of order and augmentation.
            augment: None is the data set's `flip_crop`.
        """
        data = copy.copy(self)
        data.settings = replace(self.settings, batch_size=batch_size, seed=seed)
        return data

    def place(self, device: torch.device, shard: Shard) -> None:
        """Set where batches are made, and this process's part of them."""
        self.device, self.shard = device, shard

    def prepare_data(self) -> None:
        """Look for the files, and fetch them if possible.

        Raises:
            DataError: They are missing or damaged.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read and split the images, once."""

    def train_dataloader(self) -> Resumable:
        """Batches of training images; their order and augmentation follow from the seed."""
        raise NotImplementedError

    def val_dataloader(self) -> Resumable:
        """Batches of the images that were held out from training."""
        raise NotImplementedError

    def test_dataloader(self) -> Resumable:
        """Batches of the test images."""
        raise NotImplementedError

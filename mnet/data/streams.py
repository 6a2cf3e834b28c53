"""Data sets too large for memory: Imagenette and ImageNet, decoded from files by worker processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from mnet.data.augment import normalise, scale_and_shift
from mnet.data.batches import ALL, Batch, Resumable, Shard, shuffled
from mnet.data.folders import Sample, hold_out, list_splits
from mnet.data.module import ImageData, stratified_split
from mnet.data.photographs import CentreCrop, RandomCrop, open_photograph
from mnet.errors import ConfigError, DataError, unknown
from mnet.seeding import random_seed

Folder = TypeVar("Folder", bound=torchvision.datasets.DatasetFolder)
Key = tuple[int, int]
"""Epoch and index of an image: all that its augmentation depends on."""


class StreamedDataset(Dataset[tuple[Tensor, Any]]):
    """Part of a data set of images, transformed. Each image's augmentation is a function of its key.

    It is sent to worker processes, so all of it can be pickled.
    """

    def __init__(self, source: Any, indices: Tensor, transform: Callable[[Any], Any], seed: int) -> None:
        self.source, self.indices, self.transform, self.seed = source, indices, transform, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> tuple[Tensor, Any]:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random_seed("augment", self.seed, epoch, index))  # see seed_all
            return self.sample(int(self.indices[index]))

    def sample(self, index: int) -> tuple[Tensor, Any]:
        """An image of the source as the network sees it, and its class.

        Raises:
            DataError: It cannot be read.
        """
        try:
            image, label = self.source[index]
            return self.transform(image), label
        except OSError as error:
            path = self.source.samples[index][0]
            raise DataError(f"{path} cannot be read as an image ({error}). Repair or delete it.") from error


class Keys(Sampler[list[Key]]):
    """The batches of an epoch, as keys of images, from batch `start` on."""

    def __init__(self, count: int, batch_size: int, seed: int, *, train: bool, share: Shard = ALL) -> None:
        self.count, self.seed, self.train = count, seed, train
        self.batch_size = min(batch_size, count) if train else batch_size
        self.share = share if train else ALL
        self.share.check(self.batch_size)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count // self.batch_size if self.train else -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = shuffled(self.count, self.seed, self.epoch) if self.train else torch.arange(self.count)
        for index in range(self.start, len(self)):
            part = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield [(self.epoch, image) for image in self.share.take(part).tolist()]


class Stream(Resumable):
    """Loader with worker processes whose batches, like those of `Batches`, need no saved random state."""

    def __init__(
        self,
        images: Sized,
        *,
        batch_size: int,
        seed: int,
        train: bool,
        workers: int,
        share: Shard = ALL,
        collate: Callable[[Any], tuple[Tensor, Any]],
    ) -> None:
        super().__init__()
        self._keys = Keys(len(images), batch_size, seed, train=train, share=share)
        self._loader = DataLoader(
            cast(Dataset[Any], images),
            batch_sampler=self._keys,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        self._keys.epoch, self._keys.start = self._epoch, self._begin()
        for images, labels in self._loader:
            self._position += 1
            yield images, labels


class PhotographStream(Stream):
    """A stream whose workers hand out bytes, a quarter of what floats take to send; a batch is normalised at once."""

    def __init__(self, images: Sized, *, mean: Sequence[float], std: Sequence[float], **settings: Any) -> None:
        super().__init__(images, collate=default_collate, **settings)
        self._scale, self._shift = scale_and_shift(mean, std)

    def __iter__(self) -> Iterator[Batch]:
        for pixels, labels in super().__iter__():
            yield normalise(pixels.permute(0, 3, 1, 2), self._scale, self._shift), labels


class Streamed(ImageData):
    """A data set of files, decoded by worker processes. A subclass fills `_splits`."""

    in_channels = 3
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self, *, data_dir: Path, batch_size: int, resolution: int | None, seed: int, val_size: int, workers: int
    ) -> None:
        """
        Args:
            data_dir: where the data set's own folder is.
            batch_size: images per batch.
            resolution: side in pixels of what the network sees; None is the data set's own.
            seed: of training order and augmentation, not of the split.
            val_size: images taken from train for validation, always the same ones.
            workers: processes that decode; 0 decodes in the main one.
        """
        super().__init__(data_dir=data_dir, batch_size=batch_size, resolution=resolution, seed=seed, val_size=val_size)
        if workers < 0:
            raise ConfigError(f"workers is {workers}; from 0 on.")
        self.workers = workers
        self._splits: dict[str, Sized] = {}

    def train_dataloader(self) -> Stream:
        return self.stream("train", train=True)

    def val_dataloader(self) -> Stream:
        return self.stream("val")

    def test_dataloader(self) -> Stream:
        return self.stream("test")

    def stream(self, split: str, *, train: bool = False) -> Stream:
        """A loader over 'train', 'val' or 'test'; `train` shuffles."""
        settings = {"batch_size": self.batch_size, "seed": self.seed, "workers": self.workers}
        return self.loader(self._splits[split], train=train, share=self.device_share, **settings)

    @abstractmethod
    def loader(self, images: Sized, **settings: Any) -> Stream:
        """The loader of such images."""


class StreamedImages(Streamed):
    """StreamedDataset on disk. Validation is a fixed part of train; the published validation set is the test."""

    native_resolution = 224

    def __init__(
        self,
        *,
        data_dir: Path = Path("data"),
        batch_size: int = 128,
        resolution: int | None = None,
        seed: int = 0,
        val_size: int = 1000,
        workers: int = 4,
    ) -> None:
        """As `Streamed`."""
        super().__init__(
            data_dir=data_dir,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            val_size=val_size,
            workers=workers,
        )

    @abstractmethod
    def source(self, split: Literal["train", "val"]) -> Any:
        """The published split: images and classes by index, their `samples`, and what `split` takes.

        Raises:
            DataError: Missing folders.
        """

    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        """Indices of what is trained and validated on."""
        return stratified_split(torch.tensor(train.targets), self.val_size)

    def prepare_data(self) -> None:
        self.source("train")
        self.source("val")

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        train, test = self.source("train"), self.source("val")
        chosen, held_out = self.split(train)
        augment, plain = RandomCrop(self.resolution), CentreCrop(self.resolution)
        self._splits = {
            "train": StreamedDataset(train, chosen, augment, self.seed),
            "val": StreamedDataset(train, held_out, plain, self.seed),
            "test": StreamedDataset(test, torch.arange(len(test)), plain, self.seed),
        }

    def checked(self, source: Folder) -> Folder:
        """
        Raises:
            DataError: It has not all the classes.
        """
        if len(source.classes) != self.num_classes:
            raise DataError(
                f"{source.root} has {len(source.classes)} class folders, {self.name} has "
                f"{self.num_classes}; unpack the archive again."
            )
        return source

    def loader(self, images: Sized, **settings: Any) -> Stream:
        return PhotographStream(images, mean=self.mean, std=self.std, **settings)


class Photographs(StreamedImages):
    """Your own images, as `ImageFolder` finds and splits them, decoded anew in every epoch: for more of them than
    memory holds. Normalised as ImageNet is.

    `num_classes` and `class_names` are known after `prepare_data()`.
    """

    name = "photographs"
    named_by_files = True

    @cached_property
    def listed(self) -> tuple[list[str], list[Sample], list[Sample]]:
        """As `list_splits`: walked through once, for both splits."""
        return list_splits(self.data_dir)

    def source(self, split: Literal["train", "val"]) -> ImageList:
        names, train, test = self.listed
        self.class_names, self.num_classes = tuple(names), len(names)
        return ImageList(train if split == "train" else test)

    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        return hold_out(train.samples, self.val_size, self.data_dir)


class ImageList:
    """StreamedDataset and their classes, opened when they are asked for."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return open_photograph(path), label


class Imagenette(StreamedImages):
    """Ten easy classes of ImageNet, 9,469 + 3,925 images.

    Source: Howard 2019, https://github.com/fastai/imagenette
    """

    name = "imagenette"
    train_size = 9_469
    num_classes = 10
    class_names = (
        "tench", "English springer", "cassette player", "chain saw", "church",
        "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
    )  # fmt: skip

    def __init__(
        self,
        *,
        data_dir: Path = Path("data"),
        batch_size: int = 128,
        resolution: int | None = None,
        seed: int = 0,
        val_size: int = 1000,
        workers: int = 4,
        size: Literal["full", "320px", "160px"] = "160px",
    ) -> None:
        """As `StreamedImages`.

        Args:
            size: which of the published archives; the shorter side of its images.
        """
        super().__init__(
            data_dir=data_dir,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            val_size=val_size,
            workers=workers,
        )
        archives = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
        if size not in archives:
            raise unknown("size", size, archives)
        self.archive = archives[size]

    def source(self, split: Literal["train", "val"]) -> torchvision.datasets.ImageFolder:
        folder = self.data_dir / self.archive / split
        if not folder.is_dir():
            raise DataError(
                f"{folder} is missing. Unpack https://s3.amazonaws.com/fast-ai-imageclas/{self.archive}.tgz "
                f"in {self.data_dir}."
            )
        return self.checked(read_folder(folder))


class ImageNet(StreamedImages):
    """ILSVRC 2012, 1,281,167 + 50,000 images. `class_names` are known after `prepare_data()`."""

    name = "imagenet"
    named_by_files = True
    train_size = 1_281_167
    num_classes = 1000

    def source(self, split: Literal["train", "val"]) -> torchvision.datasets.ImageNet:
        folder = self.data_dir / "imagenet"
        try:
            source = torchvision.datasets.ImageNet(folder, split=split, loader=open_photograph)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"ImageNet is not in {folder} ({error}). Put ILSVRC2012_devkit_t12.tar.gz, "
                f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, from https://image-net.org after "
                "registration, there: torchvision unpacks them."
            ) from error
        self.class_names = tuple(names[0] for names in source.classes)
        return self.checked(source)


def read_folder(folder: Path) -> torchvision.datasets.ImageFolder:
    """
    Raises:
        DataError: A class without an image.
    """
    try:
        return torchvision.datasets.ImageFolder(str(folder), loader=open_photograph)
    except (FileNotFoundError, RuntimeError) as error:
        raise DataError(f"{folder}: {error}") from error

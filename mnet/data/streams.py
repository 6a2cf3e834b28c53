"""Data sets too large for memory: worker processes decode their files, and the batches are still reproducible."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mnet.data.batches import ALL, Resumable, Shard, shuffled
from mnet.data.module import DataSettings, ImageData
from mnet.errors import ConfigError, DataError
from mnet.seeding import random_seed

Key = tuple[int, int]
"""Epoch and index of an image: its augmentation depends on nothing else."""
Split = Literal["train", "val"]
"""A published split."""


class StreamedDataset(Dataset[tuple[Tensor, Any]]):
    """Part of a data set of image files, transformed. The augmentation of an image is a function of its key.

    It is sent to worker processes, so everything in it can be pickled.
    """

    def __init__(self, source: Any, indices: Tensor, transform: Callable[[Any], Any], seed: int) -> None:
        self.source, self.indices, self.transform, self.seed = source, indices, transform, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> tuple[Tensor, Any]:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which is slow: see mnet.seeding.seed_all
            torch.default_generator.manual_seed(random_seed("augment", self.seed, epoch, index))
            return self.load(int(self.indices[index]))

    def load(self, index: int) -> tuple[Tensor, Any]:
        """A transformed image of the source, and its class.

        Raises:
            DataError: The file cannot be read.
        """
        try:
            image, label = self.source[index]
            return self.transform(image), label
        except OSError as error:
            path = self.source.samples[index][0]
            raise DataError(f"{path} cannot be read as an image ({error}). Repair or delete it.") from error


class KeySampler(Sampler[list[Key]]):
    """The batches of an epoch as keys of images, beginning with batch `start`."""

    def __init__(self, count: int, batch_size: int, seed: int, *, train: bool, shard: Shard = ALL) -> None:
        self.count, self.seed, self.train = count, seed, train
        self.batch_size = min(batch_size, count) if train else batch_size
        self.shard = shard if train else ALL
        self.shard.check(self.batch_size)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count // self.batch_size if self.train else -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = shuffled(self.count, self.seed, self.epoch) if self.train else torch.arange(self.count)
        for index in range(self.start, len(self)):
            part = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield [(self.epoch, image) for image in self.shard.take(part).tolist()]


class StreamLoader(Resumable):
    """A loader with worker processes. Like `Batches`, it resumes without the state of a random generator."""

    def __init__(
        self,
        images: Sized,
        *,
        batch_size: int,
        seed: int,
        train: bool,
        workers: int,
        shard: Shard = ALL,
        collate: Callable[[Any], tuple[Tensor, Any]],
    ) -> None:
        super().__init__()
        self._keys = KeySampler(len(images), batch_size, seed, train=train, shard=shard)
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


@dataclass(frozen=True, kw_only=True)
class StreamSettings(DataSettings):
    """Settings of a data set that worker processes decode."""

    val_size: int = 1000
    workers: int = 4
    """Processes that decode images; 0 decodes in the main process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; expected at least 0.")


class StreamedData(ImageData):
    """A data set of image files, decoded by worker processes and normalised with the statistics of ImageNet.

    Validation is a fixed part of the published train; the published val is the test.
    """

    settings_type = StreamSettings
    settings: StreamSettings
    dataset: ClassVar[type[StreamedDataset]] = StreamedDataset
    in_channels = 3
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._splits: dict[str, StreamedDataset] = {}

    @abstractmethod
    def source(self, split: Split) -> Any:
        """A published split, as `dataset` reads it.

        Raises:
            DataError: Missing or unreadable files.
        """

    @abstractmethod
    def split(self, train: Any) -> tuple[Tensor, Tensor]:
        """Indices of training and validation images among those of train."""

    @abstractmethod
    def transforms(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """For training and for evaluation."""

    def prepare_data(self) -> None:
        self.source("train")
        self.source("val")

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        train, test = self.source("train"), self.source("val")
        chosen, held_out = self.split(train)
        augment, plain = self.transforms()
        seed = self.settings.seed
        self._splits = {
            "train": self.dataset(train, chosen, augment, seed),
            "val": self.dataset(train, held_out, plain, seed),
            "test": self.dataset(test, torch.arange(len(test)), plain, seed),
        }

    def train_dataloader(self) -> StreamLoader:
        return self._stream("train", train=True)

    def val_dataloader(self) -> StreamLoader:
        return self._stream("val")

    def test_dataloader(self) -> StreamLoader:
        return self._stream("test")

    def _stream(self, split: str, *, train: bool = False) -> StreamLoader:
        settings = self.settings
        return self.loader(
            self._splits[split],
            batch_size=settings.batch_size,
            seed=settings.seed,
            train=train,
            workers=settings.workers,
            shard=self.device_shard,
        )

    @abstractmethod
    def loader(self, images: Sized, **settings: Any) -> StreamLoader:
        """The loader over a split; `settings` are those of `StreamLoader`, without `collate`."""

"""Batches of stored images with boxes or masks, transformed together, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mnet.data.batches import ALL, Resumable, Shard, shuffled
from mnet.data.store import ImageStore
from mnet.data.transforms import Sample, Transform
from mnet.seeding import random_seed


class StoredObjects(NamedTuple):
    """The objects of many images, one after another."""

    boxes: Tensor
    """(objects, 4) float32: left, top, right, bottom in pixels."""
    labels: Tensor
    """(objects,) int64: classes from 1 on."""
    ends: Tensor
    """(N,) int64: the index after an image's last object."""

    @classmethod
    def of(cls, objects: Sequence[tuple[Tensor, Tensor]]) -> StoredObjects:
        """Join the boxes (n, 4) and labels (n,) of each image."""
        counts = torch.tensor([len(labels) for _, labels in objects])
        return cls(
            torch.cat([boxes for boxes, _ in objects]), torch.cat([labels for _, labels in objects]), counts.cumsum(0)
        )

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Boxes and labels of an image."""
        _, _, ends = tuple(self)
        part = slice(int(ends[row - 1]) if row else 0, int(ends[row]))
        return self.boxes[part], self.labels[part]

    def share_memory_(self) -> Self:
        """Let processes that receive this share its memory."""
        for values in tuple(self):
            values.share_memory_()
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all objects."""
        return sum(values.nbytes for values in tuple(self))


class TransformedBatches(Resumable):
    """A loader. Its order depends only on (seed, epoch), the augmentation of an image only on (seed, epoch, index)."""

    def __init__(
        self,
        images: ImageStore,
        targets: StoredObjects | ImageStore,
        rows: Tensor,
        transform: Transform,
        collate: Callable[[Any], tuple[Tensor, Any]],
        *,
        batch_size: int,
        seed: int = 0,
        train: bool = False,
        shard: Shard = ALL,
    ) -> None:
        """
        Args:
            images: images of any sizes.
            targets: their boxes or masks.
            rows: (N,) int64, which of them to use.
            transform: transforms an image and its target.
            collate: makes a batch of transformed samples.
            batch_size: images per batch, over all devices together.
            seed: seed of order and augmentation.
            train: shuffle, and drop an incomplete last batch (unless it is the only one).
            shard: the part of every training batch to yield; evaluation yields all images.

        Raises:
            ConfigError: The batch cannot be divided equally among the devices.
        """
        super().__init__()
        self.images, self.targets, self.rows = images, targets, rows
        self.transform, self.collate, self.seed, self.train = transform, collate, seed, train
        self.batch_size = min(batch_size, len(rows)) if train else batch_size
        self.shard = shard if train else ALL
        self.shard.check(self.batch_size)

    def __len__(self) -> int:
        """Number of batches."""
        count = len(self.rows)
        if not count:
            return 0
        return count // self.batch_size if self.train else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        start, count = self._begin(), len(self.rows)
        order = shuffled(count, self.seed, self._epoch) if self.train else torch.arange(count)
        for number in range(start, len(self)):
            part = order[number * self.batch_size : (number + 1) * self.batch_size]
            self._position = number + 1
            yield self.collate([self._sample(index) for index in self.shard.take(part).tolist()])

    def _sample(self, index: int) -> tuple[Tensor, Any]:
        row = int(self.rows[index])
        target = self.targets[row]
        if isinstance(target, Tensor):
            target = target[..., 0]
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which is slow: see mnet.seeding.seed_all
            torch.default_generator.manual_seed(random_seed("augment", self.seed, self._epoch, index))
            return self.transform(Sample(self.images[row].permute(2, 0, 1), target))

"""Batches of decoded images: no worker processes, exact resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from mnet.data.augment import UNCHANGED, Augment, Draws, normalise, scale_and_shift
from mnet.data.crops import centre_crops, draw_crops, scale_crops
from mnet.data.store import ImageStore
from mnet.data.targets import Targets
from mnet.errors import ConfigError
from mnet.seeding import random_seed

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) float32 channels_last, normalised; labels (N,) int64."""


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The training order of an epoch: a permutation (count,), a pure function of seed and epoch."""
    return torch.randperm(count, generator=Generator().manual_seed(random_seed("order", seed, epoch)))


class Shard(NamedTuple):
    """The part of every training batch that this process trains on; there is one process per device."""

    rank: int = 0
    world: int = 1

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys that distinguish this process's random streams; none for a single process."""
        return (self.rank,) if self.world > 1 else ()

    def take(self, batch: Tensor) -> Tensor:
        return batch[self.rank :: self.world]

    def check(self, batch_size: int) -> None:
        """
        Raises:
            ConfigError: The shards would differ in size, so the mean of their gradients is not the batch's gradient.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"batch_size is {batch_size}, over all devices together, and there are {self.world} devices; "
                f"expected a multiple of {self.world}."
            )


ALL = Shard()


class Resumable:
    """Epoch and position of a loader, which Lightning sets, saves and restores.

    Lightning calls `sampler.set_epoch` at the start of each epoch, after `iter()`: iterators must be lazy.
    """

    batch_sampler = None  # Lightning expects it next to `sampler`

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0  # batches yielded in this epoch
        self._start = 0  # first batch of the next iteration: 0, unless a state was loaded

    def __len__(self) -> int:
        """Batches of an epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Images (N, C, H, W), and their labels or targets."""
        raise NotImplementedError

    @property
    def sampler(self) -> Resumable:
        """Lightning calls `set_epoch` on it."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._position = state["epoch"], state["position"]
        self._start = self._position

    def _begin(self) -> int:
        """The index of the first batch of this iteration. A loaded state is used once."""
        start, self._start = self._start, 0
        self._position = start
        return start


class Batches(Resumable):
    """A loader over decoded images, in memory or mapped from disk, on any device.

    The training order depends only on (seed, epoch), the augmentation of a batch only on (seed, epoch, batch index), so
    resuming needs no state of a random generator. On another kind of device the order is the same, but the augmentation
    differs.
    """

    def __init__(
        self,
        images: Tensor | ImageStore,
        labels: Tensor | Targets,
        *,
        rows: Tensor | None = None,
        side: int | None = None,
        device: torch.device | None = None,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        shard: Shard = ALL,
    ) -> None:
        """
        Args:
            images: (N, C, H, W) uint8; or a store, with images of any sizes.
            labels: (N,) int64; boxes or masks for `TargetBatches`.
            rows: (N,) int64, which of the images to use, if not all.
            side: height and width of the batches in pixels; None = that of the images, which have one size.
            device: where the batches are made; None = where the images are.
            batch_size: images per batch, over all devices together.
            mean: per channel, of pixels scaled to [0, 1].
            std: likewise.
            train: shuffle, augment and drop an incomplete last batch (unless it is the only one).
            augment: used for training only.
            seed: seed of order and augmentation.
            shard: the part of every training batch to yield; evaluation yields all images.

        Raises:
            ConfigError: The batch cannot be divided equally among the devices.
        """
        super().__init__()
        # (N, H, W, C): crops move whole pixels, and a batch is channels_last without a transposition
        self._pixels = images.permute(0, 2, 3, 1).contiguous() if isinstance(images, Tensor) else images
        self.side = side
        self._rows = rows if rows is None or not isinstance(self._pixels, Tensor) else rows.to(self._pixels.device)
        held_on = images.device if isinstance(images, Tensor) else images.pixels.device
        self.device = held_on if device is None else device
        self.labels = labels.to(self.device)
        count = len(images) if rows is None else len(rows)
        self._count = count
        self.batch_size = min(batch_size, count) if train else batch_size
        self.shard = shard if train else ALL
        self.shard.check(self.batch_size)
        self.train = train
        self.augment = augment if train and augment != UNCHANGED else None  # no random numbers if nothing changes
        self.seed = seed
        self._scale, self._shift = scale_and_shift(mean, std, self.device)
        self._generator = Generator(self.device)

    def __len__(self) -> int:
        """Number of batches."""
        if not self._count:
            return 0
        return self._count // self.batch_size if self.train else -(-self._count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        start = self._begin()
        order = self._order()
        for index in range(start, len(self)):
            part = slice(index * self.batch_size, (index + 1) * self.batch_size)
            chosen = part if order is None else self.shard.take(order[part])
            # before the yield: a checkpoint written while the batch is in use counts it
            self._position = index + 1
            yield self._batch(chosen, index)

    def _order(self) -> Tensor | None:
        if not self.train:
            return None
        order = shuffled(self._count, self.seed, self._epoch)
        return order.to(self._pixels.device) if isinstance(self._pixels, Tensor) and not self.crops else order

    def _batch(self, chosen: Tensor | slice, index: int) -> tuple[Tensor, Any]:
        images = self._read(chosen, index).permute(0, 3, 1, 2)
        augment = self.augment
        if augment is not None and augment.resized:
            augment = replace(augment, flip=False)  # already done by `_read`
        if isinstance(chosen, Tensor):
            chosen = chosen.to(self.device, non_blocking=True)
        return normalise(images, self._scale, self._shift, augment, self._seeded(index)), self.labels[chosen]

    @property
    def crops(self) -> bool:
        """Whether a batch is cropped out of larger images."""
        return isinstance(self._pixels, ImageStore) or (self.augment is not None and self.augment.resized)

    def _read(self, chosen: Tensor | slice, index: int) -> Tensor:
        """The pixels of a batch, (N, H, W, C)."""
        if isinstance(self._pixels, Tensor) and not self.crops:
            rows = chosen if self._rows is None else self._rows[chosen]
            return self._pixels[rows].to(self.device, non_blocking=True)
        if isinstance(chosen, slice):
            chosen = torch.arange(self._count)[chosen]
        rows = chosen if self._rows is None else self._rows[chosen]
        images = [self._pixels[row] for row in rows.tolist()]
        sizes = torch.tensor([image.shape[:2] for image in images])
        side = int(sizes[0, 0]) if self.side is None else self.side
        if self.augment is None or not self.augment.resized:
            return scale_crops(images, centre_crops(sizes, side), side, self.device)
        generator = Generator().manual_seed(self._seed(index))  # on the CPU, so nothing waits for a GPU
        crops = draw_crops(sizes, generator)
        mirrored = torch.rand(len(images), generator=generator) < 0.5 if self.augment.flip else None
        return scale_crops(images, crops, side, self.device, mirrored)

    def _seeded(self, index: int) -> Generator:
        """The generator for the augmentation of a batch."""
        if self.augment:
            self._generator.manual_seed(self._seed(index))
        return self._generator

    def _seed(self, index: int) -> int:
        return random_seed("augment", self.seed, self._epoch, index, *self.shard.keys)


class ReplicatedBatches(Resumable):
    """The batches of several loaders over the same images, made together: bit for bit what each loader would yield.

    A batch is the loaders' images, concatenated along the channels to (N, K * C, H, W), and a list of their labels.
    """

    def __init__(self, loaders: Sequence[Batches]) -> None:
        super().__init__()
        self.loaders = loaders

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[tuple[Tensor, list[Any]]]:
        if not all(type(loader) is Batches and not loader.crops for loader in self.loaders):
            for batches in zip(*self.loaders, strict=True):
                yield torch.cat([images for images, _ in batches], 1), [labels for _, labels in batches]
            return
        starts = [loader._begin() for loader in self.loaders]
        orders = torch.stack([order for loader in self.loaders if (order := loader._order()) is not None])
        size = self.loaders[0].batch_size
        for index in range(starts[0], len(self)):
            for loader in self.loaders:
                loader._position = index + 1
            yield self._batch(orders[:, index * size : (index + 1) * size], index)

    def _batch(self, chosen: Tensor, index: int) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            chosen: (K, N) indices of images.
            index: index of the batch in the epoch.
        """
        (count, size), first = chosen.shape, self.loaders[0]
        augment, draws = first.augment, None
        if augment is not None:
            draws = Draws.join([Draws.of(augment, size, one._seeded(index), first.device) for one in self.loaders])
        pixels = first._read(chosen.flatten(), index).permute(0, 3, 1, 2)
        images = normalise(pixels, first._scale, first._shift, augment, draws)
        side_by_side = images.unflatten(0, (count, size)).transpose(0, 1).flatten(1, 2)
        return side_by_side.contiguous(memory_format=torch.channels_last), list(first.labels[chosen].unbind())

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return self.loaders[0].state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        for loader in self.loaders:
            loader.load_state_dict(state)


class TargetBatches(Batches):
    """Batches with boxes or masks, which are mirrored with their images. Crops and cutout are not applied."""

    labels: Targets

    def _batch(self, chosen: Tensor | slice, index: int) -> tuple[Tensor, Targets]:
        pixels, targets = self._read(chosen, index), self.labels.select(chosen)
        if self.augment and self.augment.flip:
            which = torch.rand(len(pixels), generator=self._seeded(index), device=pixels.device) < 0.5
            pixels = torch.where(which.view(-1, 1, 1, 1), pixels.flip(2), pixels)
            targets = targets.mirrored(which, pixels.shape[2])
        return normalise(pixels.permute(0, 3, 1, 2), self._scale, self._shift), targets

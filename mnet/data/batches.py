"""Mini-batches of images held in memory: no worker processes, no Python per sample, exact resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from mnet.data.augment import Augment, normalise, scale_and_shift
from mnet.data.targets import Targets
from mnet.errors import ConfigError
from mnet.seeding import random_seed

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) float32 channels_last, normalised; labels (N,) int64."""


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The training order of an epoch: a permutation (count,), a pure function of seed and epoch."""
    return torch.randperm(count, generator=Generator().manual_seed(random_seed("order", seed, epoch)))


class Shard(NamedTuple):
    """Which part of every training batch this process trains on; there is one process a device."""

    rank: int = 0
    world: int = 1

    @property
    def keys(self) -> tuple[int, ...]:
        """What sets this process's random streams apart; nothing where it is the only one."""
        return (self.rank,) if self.world > 1 else ()

    def take(self, batch: Tensor) -> Tensor:
        return batch[self.rank :: self.world]

    def check(self, batch_size: int) -> None:
        """
        Raises:
            ConfigError: The shares would not be equal, and the mean of their gradients not the batch's.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"batch_size is {batch_size}, of all devices together, and there are {self.world} devices; "
                f"it must be a multiple of {self.world}."
            )


ALL = Shard()


class Resumable:
    """Epoch and position of a loader, as Lightning sets, saves and restores them.

    Lightning calls `sampler.set_epoch` at the start of each epoch, after `iter()`: iterators must be lazy.
    """

    batch_sampler = None  # Lightning expects it beside `sampler`

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0  # batches handed out in this epoch
        self._start = 0  # where the next iteration begins: 0, unless a state was loaded

    @property
    def sampler(self) -> Resumable:
        """Where Lightning looks for `set_epoch`."""
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
        """The first batch of this iteration. Uses up a loaded state."""
        start, self._start = self._start, 0
        self._position = start
        return start


class Batches(Resumable):
    """Loader over images in memory, on any device; the batches come from the same device.

    For training, the order is a pure function of (seed, epoch) and the augmentation of a batch one of
    (seed, epoch, batch index), so resuming needs no state of any random generator. Another device draws
    another augmentation, in the same order.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | Targets,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        share: Shard = ALL,
    ) -> None:
        """
        Args:
            images: (N, C, H, W) uint8.
            labels: (N,) int64; of `TargetBatches` boxes or masks.
            batch_size: of all devices together.
            mean: per channel, of pixels scaled to [0, 1].
            std: likewise.
            train: shuffle, augment and drop an incomplete last batch (unless it is the only one).
            augment: used for training only.
            seed: of order and augmentation.
            share: of every training batch, in images, that is handed out here; evaluation sees all of them.

        Raises:
            ConfigError: The devices cannot share a batch equally.
        """
        super().__init__()
        # (N, H, W, C): a crop then moves whole pixels, and a batch is channels_last without a transposition
        self._pixels = images.permute(0, 2, 3, 1).contiguous()
        self.labels = labels.to(images.device)
        self.batch_size = min(batch_size, len(images)) if train else batch_size
        self.share = share if train else ALL
        self.share.check(self.batch_size)
        self.train = train
        self.augment = augment if train else None
        self.seed = seed
        self._scale, self._shift = scale_and_shift(mean, std, images.device)
        self._generator = Generator(images.device)

    def __len__(self) -> int:
        """Number of batches."""
        count = len(self._pixels)
        if not count:
            return 0
        return count // self.batch_size if self.train else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        start = self._begin()
        order = self._order()
        for index in range(start, len(self)):
            part = slice(index * self.batch_size, (index + 1) * self.batch_size)
            chosen = part if order is None else self.share.take(order[part])
            # before the yield: a checkpoint written while the batch is in use counts it
            self._position = index + 1
            yield self._batch(chosen, index)

    def _order(self) -> Tensor | None:
        if not self.train:
            return None
        return shuffled(len(self._pixels), self.seed, self._epoch).to(self._pixels.device)

    def _batch(self, chosen: Tensor | slice, index: int) -> tuple[Tensor, Any]:
        images = self._pixels[chosen].permute(0, 3, 1, 2)
        return normalise(images, self._scale, self._shift, self.augment, self._drawing(index)), self.labels[chosen]

    def _drawing(self, index: int) -> Generator:
        """Of the augmentation of a batch."""
        if self.augment:
            self._generator.manual_seed(random_seed("augment", self.seed, self._epoch, index, *self.share.keys))
        return self._generator


class TargetBatches(Batches):
    """The same with boxes or masks, which are mirrored with their images; a crop or cutout is not done to them."""

    labels: Targets

    def _batch(self, chosen: Tensor | slice, index: int) -> tuple[Tensor, Targets]:
        pixels, targets = self._pixels[chosen], self.labels.select(chosen)
        if self.augment and self.augment.flip:
            which = torch.rand(len(pixels), generator=self._drawing(index), device=pixels.device) < 0.5
            pixels = torch.where(which.view(-1, 1, 1, 1), pixels.flip(2), pixels)
            targets = targets.mirrored(which, pixels.shape[2])
        return normalise(pixels.permute(0, 3, 1, 2), self._scale, self._shift), targets

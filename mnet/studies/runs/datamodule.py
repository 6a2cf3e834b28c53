"""The images of a run as a data module for Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import lightning as L

from mnet.data import ImageData
from mnet.data.batches import Batches, ReplicatedBatches, Resumable, Shard


class RunImages(L.LightningDataModule):
    """The images of a run or a pack. A pack trains with each run's order and augmentation, and is evaluated on the same
    images."""

    def __init__(self, data: ImageData | Sequence[ImageData]) -> None:
        """
        Args:
            data: The data set of a run, read and split; or one for each run of a pack.
        """
        super().__init__()
        self.data = data

    def train_dataloader(self) -> Resumable:
        if isinstance(self.data, ImageData):
            return self._placed(self.data).train_dataloader()
        return ReplicatedBatches([cast(Batches, self._placed(data).train_dataloader()) for data in self.data])

    def val_dataloader(self) -> Resumable:
        return self._evaluated.val_dataloader()

    def test_dataloader(self) -> Resumable:
        return self._evaluated.test_dataloader()

    @property
    def _evaluated(self) -> ImageData:
        return self._placed(self.data if isinstance(self.data, ImageData) else self.data[0])

    def _placed(self, data: ImageData) -> ImageData:
        """The data set, placed on the Trainer's device, where its batches are made."""
        assert self.trainer is not None
        data.place(self.trainer.strategy.root_device, Shard(self.trainer.global_rank, self.trainer.world_size))
        return data

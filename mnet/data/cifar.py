"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images, 32x32, read by torchvision.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchvision

from mnet.data.augment import Augment
from mnet.data.decoded import DecodedSettings, Images, InMemoryImages
from mnet.data.download import quiet_network
from mnet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CIFARSettings(DecodedSettings):
    """Settings of CIFAR-10 and CIFAR-100."""

    download: bool = False
    """Let torchvision fetch the 160 MB if they are missing."""


class _CIFAR(InMemoryImages):
    settings_type = CIFARSettings
    settings: CIFARSettings
    source: ClassVar[type[torchvision.datasets.CIFAR10]]
    native_resolution = 32
    train_size = 50_000
    in_channels = 3
    flip_crop = Augment(flip=True, pad=4)

    @property
    def folder(self) -> Path:
        return self.data_dir / str(self.source.base_folder)

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: Files are missing, or their download failed.
        """
        if self.settings.download:
            try:
                with quiet_network():
                    self.source(self.data_dir, download=True)
            except (OSError, RuntimeError) as error:
                raise self._unavailable(f"the download of {self.source.url} failed: {error}") from error
        names = [name for name, _ in self.source.train_list + self.source.test_list]
        names.append(self.source.meta["filename"])
        absent = [name for name in names if not (self.folder / name).is_file()]
        if absent:
            raise self._unavailable(f"{self.folder} lacks {', '.join(absent)}")

    def read(self) -> tuple[Images, Images]:
        self.prepare_data()
        return self._read(train=True), self._read(train=False)

    def _read(self, *, train: bool) -> Images:
        try:
            data = self.source(self.data_dir, train=train)
        except (RuntimeError, EOFError, OSError) as error:
            reason = f"a file in {self.folder} is corrupt (its md5 is not the published one); delete the folder"
            raise self._unavailable(reason) from error
        self.class_names = tuple(data.classes)
        images = torch.from_numpy(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)))
        return Images(images, torch.tensor(data.targets, dtype=torch.int64))

    def _unavailable(self, reason: str) -> DataError:
        return DataError(
            f"{self.name}: {reason}. Unpack {self.source.url} in {self.data_dir}, so that "
            f"{self.folder} holds its files, or set download=True."
        )


class CIFAR10(_CIFAR):
    """CIFAR-10."""

    name = "cifar10"
    source = torchvision.datasets.CIFAR10
    num_classes = 10
    class_names = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)


class CIFAR100(_CIFAR):
    """CIFAR-100. `class_names` are set after `setup()`."""

    name = "cifar100"
    source = torchvision.datasets.CIFAR100
    named_by_files = True
    num_classes = 100
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

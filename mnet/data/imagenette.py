"""Imagenette: ten easy classes of ImageNet, 9,469 + 3,925 images.

Source: Howard 2019, https://github.com/fastai/imagenette
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torchvision

from mnet.data.published_files import PublishedFiles, PublishedFileSettings, Split
from mnet.errors import DataError

_ARCHIVES = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}


@dataclass(frozen=True, kw_only=True)
class ImagenetteSettings(PublishedFileSettings):
    """Settings of Imagenette."""

    size: Literal["full", "320px", "160px"] = "160px"
    """Published archive, by the shorter side of its images."""


class Imagenette(PublishedFiles):
    """Imagenette, unpacked in `data_dir`."""

    settings_type = ImagenetteSettings
    settings: ImagenetteSettings
    name = "imagenette"
    train_size = 9_469
    published_sizes = MappingProxyType({"classification": (9_469, 3_925)})
    num_classes = 10
    class_names = (
        "tench", "English springer", "cassette player", "chain saw", "church",
        "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
    )  # fmt: skip

    def source(self, split: Split) -> torchvision.datasets.ImageFolder:
        archive = _ARCHIVES[self.settings.size]
        folder = self.data_dir / archive / split
        if not folder.is_dir():
            raise DataError(
                f"{folder} is missing. Unpack https://s3.amazonaws.com/fast-ai-imageclas/{archive}.tgz "
                f"in {self.data_dir}."
            )
        try:
            return torchvision.datasets.ImageFolder(str(folder))
        except (FileNotFoundError, RuntimeError) as error:  # a class without an image
            raise DataError(f"{folder}: {error}") from error

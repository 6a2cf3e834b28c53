"""Data sets by name. All give a model `num_classes`, `in_channels`, `resolution` and three loaders; `tasks` says what
their images can be learned for, and those of several tasks take `task`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from mnet.data.annotated import COCO, VOC, Cityscapes
from mnet.data.augment import Augment
from mnet.data.batches import Batches
from mnet.data.cifar import CIFAR10, CIFAR100
from mnet.data.fashion_mnist import FashionMNIST
from mnet.data.folders import ImageFolder
from mnet.data.module import ImageData
from mnet.data.scenes import ScenesData
from mnet.data.streams import ImageNet, Imagenette, Photographs
from mnet.errors import unknown

CLASSIFIED = (FashionMNIST, CIFAR10, CIFAR100, Imagenette, ImageNet, ImageFolder, Photographs)
ANNOTATED = (ScenesData, COCO, VOC, Cityscapes)
DATASETS: dict[str, type[ImageData]] = {data.name: data for data in (*CLASSIFIED, *ANNOTATED)}
"""By the name that settings use."""

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "COCO",
    "DATASETS",
    "VOC",
    "Augment",
    "Batches",
    "Cityscapes",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "Imagenette",
    "Photographs",
    "ScenesData",
    "create_data",
]


def create_data(name: str, **settings: object) -> ImageData:
    """The data set `name` of `DATASETS`; nothing is read before its `prepare_data()` and `setup()`.

    Raises:
        ConfigError: An unknown name, an unknown setting, or a value that cannot be used.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    build: Callable[..., ImageData] = DATASETS[name]
    allowed = inspect.signature(build).parameters
    for setting in settings:
        if setting not in allowed:
            raise unknown(f"setting of {name}", setting, allowed)
    return build(**settings)

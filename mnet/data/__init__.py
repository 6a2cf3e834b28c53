"""Data sets by name.

Each has `num_classes`, `in_channels`, `resolution` and three loaders. Its `tasks` say which labels it has; a data set
with several tasks takes the setting `task`.
"""

from __future__ import annotations

from mnet.data.augment import Augment
from mnet.data.batches import Batches
from mnet.data.cifar import CIFAR10, CIFAR100
from mnet.data.cityscapes import Cityscapes
from mnet.data.coco import COCO
from mnet.data.fashion_mnist import FashionMNIST
from mnet.data.imagefolder import ImageFolder
from mnet.data.imagenet import ImageNet
from mnet.data.imagenette import Imagenette
from mnet.data.module import ImageData
from mnet.data.photographs import Photographs
from mnet.data.scenes import ScenesData
from mnet.data.voc import VOC
from mnet.errors import unknown

CLASSIFICATION = (FashionMNIST, CIFAR10, CIFAR100, Imagenette, ImageNet, ImageFolder, Photographs)
ANNOTATED = (ScenesData, COCO, VOC, Cityscapes)
DATASETS: dict[str, type[ImageData]] = {data.name: data for data in (*CLASSIFICATION, *ANNOTATED)}
"""Data sets by the name that settings use."""

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
    """The data set `name` of `DATASETS`. It reads no file before `prepare_data()` and `setup()`.

    Raises:
        ConfigError: An unknown name, an unknown setting, or a value that cannot be used.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name](**settings)

"""Data sets by name.

Each has `num_classes`, `in_channels`, `resolution` and three loaders. Its `tasks` are those that its labels allow; a
data set with several tasks has the setting `task`.
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
from mnet.data.scenes import ScenesData
from mnet.data.voc import VOC
from mnet.errors import ConfigError, unknown

CLASSIFICATION = (FashionMNIST, CIFAR10, CIFAR100, Imagenette, ImageNet, ImageFolder)
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
    "ScenesData",
    "create_data",
    "dataset_class",
]


def create_data(name: str, **settings: object) -> ImageData:
    """The data set `name` of `DATASETS`. It reads no file before `prepare_data()` and `setup()`.

    Raises:
        ConfigError: An unknown name, an unknown setting, or a value that cannot be used.
    """
    return dataset_class(name)(**settings)


def dataset_class(name: str) -> type[ImageData]:
    """The class of a data set.

    Raises:
        ConfigError: An unknown name.
    """
    if name == "photographs":
        raise ConfigError("dataset=photographs is now dataset=imagefolder, which holds any number of images")
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]

"""The images of the benchmark: garments in RGB, on which all loops train, and photographs for the reading part."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from mnet.data import Augment, FashionMNIST, ImageFolder
from mnet.data.augment import RESIZED_CROP
from mnet.data.decoded import Images, resize
from mnet.latency import Sample
from mnet.tasks.classification import Batch

PAD = 4
IMAGES = 12_800
"""Number of training images in every loop."""


class ColourGarments(FashionMNIST):
    """A subset of Fashion-MNIST in RGB, as torchvision's nets expect."""

    in_channels = 3
    mean: tuple[float, ...] = FashionMNIST.mean * 3  # type: ignore[assignment]
    std: tuple[float, ...] = FashionMNIST.std * 3  # type: ignore[assignment]
    flip_crop: ClassVar[Augment] = Augment(flip=True, pad=PAD)

    def read(self) -> tuple[Images, Images]:
        size = IMAGES + self.settings.val_size
        train, test = (Images(part.images[:size].expand(-1, 3, -1, -1), part.labels[:size]) for part in super().read())
        return train, test


def garments(data_dir: Path, resolution: int, batch_size: int) -> ColourGarments:
    """Load the data of all loops from `data_dir`, or download it.

    Raises:
        DataError: Fashion-MNIST cannot be found or downloaded.
    """
    data = ColourGarments(data_dir=data_dir, batch_size=batch_size, resolution=resolution)
    data.prepare_data()
    data.setup("fit")
    return data


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """One image at a time, as in torchvision's data sets."""

    def __init__(self, data: ColourGarments) -> None:
        train, _ = data.read()
        resized = resize(train.images[:IMAGES], data.resolution)  # in advance, as ours are
        self.pixels = resized.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = train.labels[:IMAGES].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.resolution, padding=PAD),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def reading(folder: Path, side: int) -> dict[str, Sample]:
    """Samples of the seconds per image to read `folder/train` into training batches of random resized crops, in one
    process: `store` from the store on disk, `files` by decoding them as in torchvision's reference script."""
    data = ImageFolder(
        data_dir=folder, batch_size=64, resolution=side, val_size=1, storage="disk", augment=RESIZED_CROP
    )
    data.prepare_data()
    data.setup("fit")
    files = datasets.ImageFolder(
        str(folder / "train"),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(side, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float),
                transforms.Normalize(data.mean, data.std),
            ]
        ),
    )
    loaders: dict[str, Iterable[Batch]] = {
        "store": data.train_dataloader(),
        "files": DataLoader(files, 64, shuffle=True, num_workers=0),
    }

    def read(loader: Iterable[Batch]) -> Sample:
        def sample() -> float:
            start = time.perf_counter()
            count = sum(len(labels) for _, labels in loader)
            return (time.perf_counter() - start) / count

        return sample

    return {name: read(loader) for name, loader in loaders.items()}


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write JPEGs of smooth waves and noise, in two classes and splits, with about a photograph's bytes per pixel."""
    generator = np.random.default_rng(0)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    for split, images in (("train", count), ("test", 2)):
        for i in range(images):
            smooth = 120 + 90 * np.sin(x[..., None] * (1, 1.3, 0.7) + i) * np.cos(y[..., None])
            pixels = np.clip(smooth + generator.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)
            path = folder / split / f"class{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=88)

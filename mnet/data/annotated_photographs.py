"""The base of COCO, Pascal VOC and Cityscapes: photographs with boxes or masks.

Detection resizes to a square, as SSD does: that changes no IoU, and so no mAP. Segmentation keeps the aspect ratio.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnet.data.annotated import AnnotatedData, AnnotatedSettings
from mnet.data.annotated_sources import BoxSource, MaskSource, Source
from mnet.data.augment import UNCHANGED
from mnet.data.decoded import DecodedImages, Images
from mnet.data.fingerprint import Files, hash_files
from mnet.data.image_files import FileSettings
from mnet.data.module import ClassImages, Description
from mnet.data.published_files import MEAN, STD, Split
from mnet.data.splits import stratified_split
from mnet.data.store import ImageStore
from mnet.data.store_build import Build, Layout
from mnet.data.targets import IGNORED
from mnet.data.transformed import StoredObjects, TransformedBatches
from mnet.data.transforms import (
    DetectionTransform,
    Letterbox,
    SegmentationTransform,
    Transform,
    collate_boxes,
    collate_masks,
)
from mnet.data.walk import list_files
from mnet.errors import DataError, path_text

VAL_SHARE = 0.2
"""Largest share of the training images for validation."""
SCALES = (0.5, 2.0)
"""Range of random scaling in segmentation, before the crop."""


@dataclass(frozen=True, kw_only=True)
class PhotographSettings(FileSettings, AnnotatedSettings):
    """Settings of COCO, Pascal VOC and Cityscapes."""

    batch_size: int = 32
    val_size: int = 200


class AnnotatedPhotographs(AnnotatedData, DecodedImages):
    """A data set of annotated photographs. A subclass implements `source`.

    Whole images are decoded once and, if they are larger, scaled down to `resolution` on the shorter side.
    """

    settings_type = PhotographSettings
    settings: PhotographSettings
    is_users = True
    in_channels = 3
    mean, std = MEAN, STD
    aspect: ClassVar[int] = 1
    """Width over height of the canvas on which segmentation is evaluated."""

    @abstractmethod
    def source(self, split: Split) -> Source:
        """A published split.

        Raises:
            DataError: Missing files, or wrong annotations.
        """

    @classmethod
    @abstractmethod
    def folder(cls, data_dir: Path) -> Path:
        """The folder that contains the files of the data set."""

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: As `source`.
        """
        self.source("train")
        self.source("val")

    def setup(self, stage: str | None = None) -> None:
        """Decode, or open what was decoded before, and split.

        Raises:
            DataError: As `source`; an unreadable image; or too little memory or disk space.
        """
        if self._splits:
            return
        train, test = self.source("train"), self.source("val")
        items = [(part, index) for part in (train, test) for index in range(len(part))]
        images = self._store(items, _read_image, self.resolution, channels=3)
        targets: StoredObjects | ImageStore
        if self.task == "detection":
            targets = StoredObjects.of([_scaled(item, images, i) for i, item in enumerate(items)])
        else:
            targets = self._store(items, _read_mask, self.resolution, channels=1)
        chosen, held_out = self.split(len(train))
        tested = torch.arange(len(train), len(items))
        rows = {name: part[images.sizes[part].prod(1) > 0] for name, part in
                (("train", chosen), ("val", held_out), ("test", tested))}  # fmt: skip
        self._splits = {name: Images(images, targets, part) for name, part in rows.items()}

    def _store(self, items: Sequence[Item], read: Read, side: int, channels: int) -> ImageStore:
        kind = "images" if channels == 3 else "masks"
        return Build(
            items=items,
            read=lambda item: read(item, side),
            size_of=lambda item: item[0].size_of(item[1]),
            layout=Layout(side, whole=True),
            key=lambda: f"{kind} of {self.files.fingerprint}",
            storage=self.settings.storage,
            skip_unreadable=self.settings.skip_unreadable,
            channels=channels,
        ).make()

    def split(self, count: int) -> tuple[Tensor, Tensor]:
        """Indices of training and validation images among `count`.

        Raises:
            DataError: Fewer than 2 training images.
        """
        if count < 2:
            raise DataError(f"{self.name} has {count} training images in {self.data_dir}; expected at least 2.")
        val_size = min(self.settings.val_size, max(1, round(VAL_SHARE * count)))
        return stratified_split(torch.zeros(count, dtype=torch.int64), val_size)

    @property
    def counts(self) -> list[int]:
        """Number of training, validation and test images."""
        return [len(part.rows) for part in self._splits.values() if part.rows is not None]

    @property
    def shared_bytes(self) -> int:
        images, targets, _ = self._splits["train"]
        return sum(part.nbytes for part in (images, targets) if getattr(part, "folder", None) is None)

    def batches(self, split: str, *, train: bool = False, device: torch.device | None = None) -> TransformedBatches:  # type: ignore[override]
        """A loader over 'train', 'val' or 'test'; its batches are made on the CPU."""
        images, targets, rows = self._splits[split]
        assert rows is not None
        augmented, plain = self.transforms()
        changes = self.settings.augment is None or self.settings.augment != UNCHANGED
        return TransformedBatches(
            images,
            targets,
            rows,
            augmented if train and changes else plain,
            collate_boxes if self.task == "detection" else collate_masks,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            train=train,
            shard=self.shard,
        )

    def transforms(self) -> tuple[Transform, Transform]:
        """The transforms for training and for evaluation."""
        side = self.resolution
        finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        if self.task == "detection":
            square, drop_tiny = v2.Resize((side, side), antialias=True), v2.SanitizeBoundingBoxes(min_size=1)
            crops = v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), square, drop_tiny])
            return DetectionTransform(crops, finish), DetectionTransform(v2.Compose([square]), finish)
        canvas = (side, side * self.aspect)
        padding = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
        jitter = v2.ScaleJitter(canvas, SCALES, antialias=True)
        crop = v2.RandomCrop((side, side), pad_if_needed=True, fill=cast(Any, padding))
        augment = v2.Compose([jitter, crop, v2.RandomHorizontalFlip()])
        return SegmentationTransform(augment, finish), SegmentationTransform(Letterbox(canvas), finish)

    def description(self) -> Description:
        return {**super().description(), "images": self.files.fingerprint, "classes": self._parts}

    @cached_property
    def _parts(self) -> dict[str, ClassImages]:
        """Top-level folder -> number and hash of its files."""
        members: dict[str, list[int]] = {}
        for index, name in enumerate(self.files.names):
            members.setdefault(Path(name).parts[0], []).append(index)
        return {
            part: {"train": len(indices), "val": 0, "test": 0, "digest": self.files.fingerprint_of(indices)}
            for part, indices in members.items()
        }

    @classmethod
    def hash_files(cls, data_dir: Path) -> Files:
        folder = cls.folder(data_dir)
        paths = list_files(folder)
        if not paths:
            raise DataError(f"{path_text(folder)} has no file; unpack {cls.name} in {path_text(data_dir)}.")
        return hash_files(folder, paths)


Item = tuple[Source, int]
"""A split, and the index of an image in it."""
Read = Callable[[Item, int], np.ndarray]


def _read_image(item: Item, side: int) -> np.ndarray:
    """(H, W, 3) uint8, with a shorter side of at most `side`."""
    source, index = item
    image = source.read(index)
    return np.array(image.resize(_smaller(image.size, side), Image.Resampling.BILINEAR))


def _read_mask(item: Item, side: int) -> np.ndarray:
    """(H, W, 1) uint8, of the size of its image."""
    source, index = item
    assert isinstance(source, MaskSource)
    mask = Image.fromarray(source.mask(index))
    return np.array(mask.resize(_smaller(mask.size, side), Image.Resampling.NEAREST))[..., None]


def _smaller(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height at which the shorter one is at most `side`."""
    scale = min(1.0, side / min(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _scaled(item: Item, images: ImageStore, row: int) -> tuple[Tensor, Tensor]:
    """Boxes in the pixels of a stored image, and labels."""
    source, index = item
    assert isinstance(source, BoxSource)
    boxes, labels = source.objects(index)
    (width, height), (stored_height, stored_width) = source.size_of(index), images.sizes[row].tolist()
    return boxes * torch.tensor([stored_width / width, stored_height / height]).repeat(2), labels

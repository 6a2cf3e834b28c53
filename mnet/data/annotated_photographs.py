"""The base of COCO, Pascal VOC and Cityscapes: photographs with boxes or masks.

Detection resizes to a square, as SSD does: that changes no IoU, and so no mAP. Segmentation keeps the aspect ratio.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnet.data.annotated import AnnotatedData, AnnotatedSettings
from mnet.data.augment import UNCHANGED
from mnet.data.decoded import DecodedImages, Images
from mnet.data.decoding import open_annotated, open_indices, read_indices, read_sizes
from mnet.data.fingerprint import Files, hash_files
from mnet.data.folders import list_files
from mnet.data.image_files import FileSettings
from mnet.data.module import ClassImages, Description
from mnet.data.published_files import MEAN, STD, Split
from mnet.data.splits import stratified_split
from mnet.data.store import Build, ImageStore, Layout
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
from mnet.errors import DataError, path_text

MIN_BOX_SIDE = 1.0
"""Boxes with a side below this many pixels, after clipping to the image, are dropped."""
VAL_SHARE = 0.2
"""Largest share of the training images for validation."""
SCALES = (0.5, 2.0)
"""Range of random scaling in segmentation, before the crop."""


class Source(ABC):
    """A published split. Its annotations are checked when it is opened, its images when they are read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """An image as it was annotated.

        Raises:
            DataError: It cannot be read, or does not match its annotation.
        """

    @abstractmethod
    def size_of(self, index: int) -> tuple[int, int]:
        """Width and height of the image that `read` returns.

        Raises:
            DataError: Its file is not an image.
        """


class BoxSource(Source):
    """Images with the boxes that were read when the split was opened."""

    def __init__(self, images: Sequence[AnnotatedImage]) -> None:
        """
        Raises:
            DataError: An image is missing.
        """
        self.images = images
        for image in images:
            if not image.path.is_file():
                raise DataError(
                    f"{path_text(image.path)} is missing, but {path_text(image.annotation)} has it. Unpack the images "
                    "again, or remove it there."
                )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        path, size, _, annotation = self.images[index]
        return open_annotated(path, size, path_text(annotation))

    def size_of(self, index: int) -> tuple[int, int]:
        path, size, *_ = self.images[index]
        return read_sizes(path)[0] if size is None else size

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) in pixels of the image from `read`, clipped to it, and labels (n,)."""
        objects = self.images[index].objects
        boxes = torch.tensor([corners for corners, _ in objects], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
        return clip_boxes(boxes, labels, self.size_of(index))


class AnnotatedImage(NamedTuple):
    """An image and its objects."""

    path: Path
    size: tuple[int, int] | None
    """Annotated width and height; None if the annotation has none."""
    objects: Sequence[tuple[Sequence[float], int]]
    """Left, top, right and bottom of each, and its class from 1 on."""
    annotation: Path
    """The annotation file."""


class MaskSource(Source):
    """Images and the files of their masks."""

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int) -> None:
        """
        Raises:
            DataError: A file is missing, or a mask has several channels or a size other than its image's.
        """
        self.files, self.classes = files, classes
        for image, mask in files:
            check_sizes(image, mask)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Image.Image:
        path, file = self.files[index]
        return open_annotated(path, self.size_of(index), path_text(file))

    def size_of(self, index: int) -> tuple[int, int]:
        return read_sizes(self.files[index][1])[0]

    def mask(self, index: int) -> np.ndarray:
        """The class of every pixel of the image from `read`, (H, W) uint8.

        Raises:
            DataError: It cannot be read, or has a class out of range.
        """
        file = self.files[index][1]
        return check_mask(self.classes_of(read_indices(file), file), file, self.classes)

    def classes_of(self, indices: np.ndarray, file: Path) -> np.ndarray:
        """The classes that the values in a mask file stand for."""
        return indices


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


def clip_boxes(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes clipped to an image of this width and height; those below `MIN_BOX_SIDE`, or not finite, are dropped."""
    boxes = boxes.clone()
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, size[0]), boxes[:, 1::2].clamp(0, size[1])
    valid = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(1) & boxes.isfinite().all(1)
    return boxes[valid], labels[valid]


def check_sizes(image: Path, mask: Path) -> None:
    """
    Raises:
        DataError: The mask is not one channel of integers, or has neither the upright nor the stored size of its image.
    """
    open_indices(mask).close()
    (size, _), sizes = read_sizes(mask), read_sizes(image)
    if size not in sizes:
        both = f"{size[0]}x{size[1]} pixels, its image {sizes[0][0]}x{sizes[0][1]}"
        raise DataError(f"{path_text(mask)} is {both}. A mask must have its image's size.")


def check_mask(mask: np.ndarray, file: Path, classes: int) -> np.ndarray:
    """The mask of an image, (H, W) uint8.

    Raises:
        DataError: It has a class out of range.
    """
    invalid = mask[((mask >= classes) | (mask < 0)) & (mask != IGNORED)]
    if invalid.size:
        raise DataError(
            f"{path_text(file)} has class {invalid[0]}; expected 0 to {classes - 1}, or {IGNORED} for no label."
        )
    return mask.astype(np.uint8)

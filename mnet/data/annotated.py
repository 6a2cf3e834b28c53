"""Photographs with boxes or masks, from your own copy: COCO, Pascal VOC and Cityscapes, read by torchvision.

Detection resizes to a square, as SSD does: that changes no IoU, and so no mAP. Segmentation keeps the aspect.
Validation is a fixed part of the published train; the published val is the test.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast
from xml.etree.ElementTree import ParseError

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from mnet.data.module import stratified_split
from mnet.data.streams import Stream, Streamed, StreamedDataset
from mnet.data.targets import IGNORED, Boxes, Masks, pad_boxes
from mnet.errors import DataError, unknown

THINNEST = 1.0
"""Pixels of the image: a box that is thinner, once it is clipped to the image, is left out."""
SCALES = (0.5, 2.0)
"""Of training images in segmentation, before they are cropped."""
Split = Literal["train", "val"]


class Sample(NamedTuple):
    """An image and what it shows."""

    image: Image.Image
    target: Any
    """Boxes (n, 4) in pixels and labels (n,) from 1 on; or a mask (H, W) uint8."""


class Source(ABC):
    """A published split, as torchvision reads it."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """
        Raises:
            DataError: An image or its annotation cannot be read, or they do not belong together.
        """

    def opened(self, index: int, *files: Path) -> tuple[Image.Image, Any]:
        """An image and its annotation, which are in `files`.

        Raises:
            DataError: One of them cannot be read.
        """
        try:
            return self.data[index]
        except (OSError, SyntaxError, ParseError, ValueError) as error:
            raise DataError(f"{' or '.join(map(str, files))} cannot be read ({error}). Repair or delete it.") from error


class AnnotatedImages(StreamedDataset):
    """Part of a `Source`, with boxes or masks that are transformed with their images."""

    def sample(self, index: int) -> tuple[Tensor, Any]:
        found: tuple[Tensor, Any] = self.transform(self.source.read(index))
        return found


class Annotated(Streamed):
    """A data set of annotated photographs. A subclass says how a split is read (`source`)."""

    background: ClassVar[bool] = True
    """Whether segmentation has a class for what is none of the others."""
    wide: ClassVar[int] = 1
    """Width over height of the canvas that segmentation is evaluated on."""

    def __init__(
        self,
        *,
        data_dir: Path = Path("data"),
        batch_size: int = 32,
        resolution: int | None = None,
        seed: int = 0,
        val_size: int = 200,
        workers: int = 4,
        task: str | None = None,
    ) -> None:
        """As `Streamed`, and:

        Args:
            task: detection or segmentation; None is the data set's first.
        """
        super().__init__(
            data_dir=data_dir,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            val_size=val_size,
            workers=workers,
        )
        if task not in (None, *self.tasks):
            raise unknown(f"task of {self.name}", str(task), self.tasks)
        self.task = self.tasks[0] if task is None else task
        self.num_classes = self.classes(self.task)

    @classmethod
    def classes(cls, task: str) -> int:
        return len(cls.class_names) + (task == "segmentation" and cls.background)

    @property
    def label_names(self) -> tuple[str, ...]:
        named = self.task == "segmentation" and self.background
        return ("background", *self.class_names) if named else self.class_names

    @abstractmethod
    def source(self, split: Split) -> Source:
        """The published split.

        Raises:
            DataError: Missing or unreadable files.
        """

    def prepare_data(self) -> None:
        self.source("train")
        self.source("val")

    def setup(self, stage: str | None = None) -> None:
        if self._splits:
            return
        train, test = self.source("train"), self.source("val")
        chosen, held_out = stratified_split(torch.zeros(len(train), dtype=torch.int64), self.val_size)
        augment, plain = self.transforms()
        self._splits = {
            "train": AnnotatedImages(train, chosen, augment, self.seed),
            "val": AnnotatedImages(train, held_out, plain, self.seed),
            "test": AnnotatedImages(test, torch.arange(len(test)), plain, self.seed),
        }

    def transforms(self) -> tuple[Callable[[Sample], Any], Callable[[Sample], Any]]:
        """For training and for evaluation."""
        side = self.resolution
        finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)])
        if self.task == "detection":
            square, sane = v2.Resize((side, side), antialias=True), v2.SanitizeBoundingBoxes(min_size=1)
            crops = v2.Compose([v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), square, sane])
            return Detecting(crops, finish), Detecting(v2.Compose([square]), finish)
        empty = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
        jitter = v2.ScaleJitter((side, side * self.wide), SCALES, antialias=True)
        crop = v2.RandomCrop((side, side), pad_if_needed=True, fill=cast(Any, empty))
        augment = v2.Compose([jitter, crop, v2.RandomHorizontalFlip()])
        return Segmenting(augment, finish), Segmenting(Fitted((side, side * self.wide)), finish)

    def loader(self, images: Sized, **settings: Any) -> Stream:
        return Stream(images, collate=collate_boxes if self.task == "detection" else collate_masks, **settings)


class Detecting:
    """An image and its boxes -> (3, H, W) and boxes and labels."""

    def __init__(self, transform: v2.Transform, finish: v2.Transform) -> None:
        self.transform, self.finish = transform, finish

    def __call__(self, sample: Sample) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        image = TF.pil_to_tensor(sample.image)
        boxes, labels = sample.target
        shown = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        told = self.transform({"image": tv_tensors.Image(image), "boxes": shown, "labels": labels})
        return self.finish(torch.as_tensor(told["image"])), (torch.as_tensor(told["boxes"]).float(), told["labels"])


class Segmenting:
    """An image and its mask -> (3, H, W) and (H, W)."""

    def __init__(self, transform: Callable[..., Any], finish: v2.Transform) -> None:
        self.transform, self.finish = transform, finish

    def __call__(self, sample: Sample) -> tuple[Tensor, Tensor]:
        image, mask = (
            tv_tensors.Image(TF.pil_to_tensor(sample.image)),
            tv_tensors.Mask(torch.from_numpy(sample.target)),
        )
        image, mask = self.transform(image, mask)
        return self.finish(torch.as_tensor(image)), torch.as_tensor(mask)


class Fitted:
    """The whole image within a canvas (H, W), its aspect kept; what is left is `IGNORED`."""

    def __init__(self, canvas: tuple[int, int]) -> None:
        self.canvas = canvas

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        factor = min(to / size for to, size in zip(self.canvas, image.shape[-2:], strict=True))
        size = [max(1, round(factor * side)) for side in image.shape[-2:]]
        left = [0, 0, self.canvas[1] - size[1], self.canvas[0] - size[0]]
        image, mask = TF.resize(image, size, antialias=True), TF.resize(mask, size)
        return TF.pad(image, left), TF.pad(mask, left, fill=cast(Any, IGNORED))


def collate_boxes(samples: Sequence[tuple[Tensor, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Boxes]:
    images = torch.stack([image for image, _ in samples]).contiguous(memory_format=torch.channels_last)
    return images, pad_boxes([target for _, target in samples])


def collate_masks(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Masks]:
    images, masks = default_collate(list(samples))
    return images.contiguous(memory_format=torch.channels_last), Masks(masks)


class COCO(Annotated):
    """COCO 2017, 118,287 + 5,000 photographs, 80 classes. Crowds are left out, in training and in evaluation."""

    name = "coco"
    named_by_files = True
    tasks = ("detection",)
    native_resolution = 320
    train_size = 118_287
    class_names = tuple(f"class {i}" for i in range(1, 81))  # until the file tells

    def source(self, split: Split) -> Source:
        folder = self.data_dir / "coco"
        images, file = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
        for path in (images, file):
            if not path.exists():
                raise DataError(f"{path} is missing. Unpack {split}2017.zip and annotations_trainval2017.zip, from "
                                f"https://cocodataset.org, in {folder}.")  # fmt: skip
        try:
            data = torchvision.datasets.CocoDetection(str(images), str(file))
            kinds = data.coco.loadCats(sorted(data.coco.getCatIds()))
        except (json.JSONDecodeError, KeyError, TypeError, AssertionError) as error:
            raise DataError(f"{file} cannot be read as COCO's annotations ({error!r}). Unpack it again.") from error
        if len(kinds) != len(self.class_names):
            raise DataError(f"{file} has {len(kinds)} categories, COCO has {len(self.class_names)}.")
        self.class_names = tuple(kind["name"] for kind in kinds)
        return CocoSource(data, images, {kind["id"]: i for i, kind in enumerate(kinds, 1)})


class CocoSource(Source):
    """Boxes that are no crowd's, with classes from 1 on."""

    def __init__(self, data: torchvision.datasets.CocoDetection, images: Path, label_of: Mapping[int, int]) -> None:
        super().__init__(data)
        self.images, self.label_of = images, label_of

    def read(self, index: int) -> Sample:
        named = self.data.coco.loadImgs(self.data.ids[index])[0]["file_name"]
        image, objects = self.opened(index, self.images / named)
        real = [one for one in objects if not one.get("iscrowd")]
        boxes = torch.tensor([one["bbox"] for one in real], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([self.label_of[one["category_id"]] for one in real], dtype=torch.int64)
        return Sample(image, usable(boxes, labels, image))


class VOC(Annotated):
    """Pascal VOC 2012, 20 classes: 5,717 + 5,823 photographs with boxes, 1,464 + 1,449 with masks. Objects that are
    marked difficult are left out, in training and in evaluation, as VOC's own metric does."""

    name = "voc"
    tasks = ("detection", "segmentation")
    native_resolution = 320
    train_size = 5_717
    class_names = (
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip

    def source(self, split: Split) -> Source:
        make = torchvision.datasets.VOCDetection if self.task == "detection" else torchvision.datasets.VOCSegmentation
        try:
            data = make(str(self.data_dir), year="2012", image_set=split)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Pascal VOC is not in {self.data_dir / 'VOCdevkit' / 'VOC2012'} ({error}). Unpack "
                f"VOCtrainval_11-May-2012.tar, from http://host.robots.ox.ac.uk/pascal/VOC/voc2012, in {self.data_dir}."
            ) from error

        return VocBoxes(data) if self.task == "detection" else VocMasks(data)


class VocBoxes(Source):
    """Boxes of objects that are not marked difficult."""

    def read(self, index: int) -> Sample:
        file = self.data.annotations[index]
        image, target = self.opened(index, Path(self.data.images[index]), Path(file))
        objects = target["annotation"].get("object", [])
        real = [one for one in objects if one.get("difficult") != "1"]
        places = [[float(one["bndbox"][end]) for end in ("xmin", "ymin", "xmax", "ymax")] for one in real]
        boxes = torch.tensor(places, dtype=torch.float32).reshape(-1, 4)
        boxes[:, :2] -= 1  # VOC counts pixels from 1, and the last one in
        labels = torch.tensor([self.label(one["name"], file) for one in real], dtype=torch.int64)
        return Sample(image, usable(boxes, labels, image))

    def label(self, name: str, file: str) -> int:
        if name not in VOC.class_names:
            raise DataError(f"{file}: {unknown('class', name, VOC.class_names)}")
        return VOC.class_names.index(name) + 1


class VocMasks(Source):
    """Masks with VOC's own class indices, the background 0."""

    def read(self, index: int) -> Sample:
        file = Path(self.data.masks[index])
        image, mask = self.opened(index, Path(self.data.images[index]), file)
        return Sample(image, checked_mask(np.array(mask), image, file, VOC.classes("segmentation")))


class Cityscapes(Annotated):
    """Cityscapes' fine annotations, 2,975 + 500 photographs of 2048 x 1024, 19 classes; all else is not labelled.
    `resolution` is the height; training crops are square."""

    name = "cityscapes"
    tasks = ("segmentation",)
    native_resolution = 1024
    train_size = 2_975
    background = False
    wide = 2
    class_names = tuple(kind.name for kind in torchvision.datasets.Cityscapes.classes if 0 <= kind.train_id < IGNORED)
    train_id: ClassVar[np.ndarray] = np.full(256, IGNORED, np.uint8)
    for kind in torchvision.datasets.Cityscapes.classes:
        if kind.id >= 0 and 0 <= kind.train_id < IGNORED:
            train_id[kind.id] = kind.train_id

    def source(self, split: Split) -> Source:
        folder = self.data_dir / "cityscapes"
        try:
            data = torchvision.datasets.Cityscapes(str(folder), split=split, mode="fine", target_type="semantic")
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Cityscapes is not in {folder} ({' '.join(str(error).split())}). Unpack leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip, from https://www.cityscapes-dataset.com after registration, there."
            ) from error

        return CityscapesSource(data)


class CityscapesSource(Source):
    """Masks with the 19 classes that are evaluated."""

    def read(self, index: int) -> Sample:
        file = Path(self.data.targets[index][0])
        image, mask = self.opened(index, Path(self.data.images[index]), file)
        classes = Cityscapes.classes("segmentation")
        return Sample(image, checked_mask(Cityscapes.train_id[np.array(mask)], image, file, classes))


def usable(boxes: Tensor, labels: Tensor, image: Image.Image) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the image, without those that are then thinner than `THINNEST`, or no numbers."""
    boxes = boxes.clone()
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, image.width), boxes[:, 1::2].clamp(0, image.height)
    real = ((boxes[:, 2:] - boxes[:, :2]) >= THINNEST).all(1) & boxes.isfinite().all(1)
    return boxes[real], labels[real]


def checked_mask(mask: np.ndarray, image: Image.Image, file: Path, classes: int) -> np.ndarray:
    """
    Raises:
        DataError: The mask is of another image, or of other classes.
    """
    if mask.shape != (image.height, image.width):
        sizes = f"{mask.shape[1]}x{mask.shape[0]} pixels, its image {image.width}x{image.height}"
        raise DataError(f"{file} is {sizes}. A mask has its image's size.")
    wrong = mask[(mask >= classes) & (mask != IGNORED)]
    if wrong.size:
        raise DataError(f"{file} has class {wrong[0]}; classes are 0 to {classes - 1}, {IGNORED} is not labelled.")
    return mask.astype(np.uint8)

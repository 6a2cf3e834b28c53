"""Pascal VOC 2012, 20 classes: 5,717 + 5,823 photographs with boxes, 1,464 + 1,449 with masks."""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import torchvision

from mnet.data.annotated_photographs import AnnotatedPhotographs
from mnet.data.annotated_sources import AnnotatedImage, BoxSource, MaskSource, Source
from mnet.data.published_files import Split
from mnet.errors import DataError, path_text, unknown


class VOC(AnnotatedPhotographs):
    """Pascal VOC, unpacked in `data_dir`. Objects marked difficult are left out of training and evaluation, as in
    VOC's own metric."""

    name = "voc"
    tasks = ("detection", "segmentation")
    native_resolution = 320
    train_size = 5_717
    published_sizes = MappingProxyType({"detection": (5_717, 5_823), "segmentation": (1_464, 1_449)})
    class_names = (
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip

    @classmethod
    def folder(cls, data_dir: Path) -> Path:
        return data_dir / "VOCdevkit" / "VOC2012"

    def source(self, split: Split) -> Source:
        detection = self.task == "detection"
        reader = torchvision.datasets.VOCDetection if detection else torchvision.datasets.VOCSegmentation
        try:
            data = reader(str(self.data_dir), year="2012", image_set=split)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"Pascal VOC is not in {self.data_dir / 'VOCdevkit' / 'VOC2012'} ({error}). Unpack "
                f"VOCtrainval_11-May-2012.tar, from http://host.robots.ox.ac.uk/pascal/VOC/voc2012, in {self.data_dir}."
            ) from error
        if detection:
            return BoxSource([read_boxes(image, file) for image, file in _pairs(data)])
        return MaskSource(_pairs(data), VOC.classes("segmentation"))


def _pairs(data: Any) -> list[tuple[Path, Path]]:
    """The files of images and annotations, as torchvision lists them."""
    return [(Path(image), Path(target)) for image, target in zip(data.images, data.targets, strict=True)]


def read_boxes(image: Path, file: Path) -> AnnotatedImage:
    """An image's objects that are not marked difficult.

    Raises:
        DataError: The file cannot be read, or an object in it is wrong.
    """
    try:
        root = ElementTree.parse(file).getroot()  # noqa: S314, the parser expands no entity from outside the file
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path_text(file)} cannot be read ({error}). Repair or delete it.") from error
    objects = []
    for number, item in enumerate(root.iter("object"), 1):
        if _text(item, "difficult") == "1":
            continue
        name = _text(item, "name")
        if name not in VOC.class_names:
            raise DataError(f"{path_text(file)}: object {number}: {unknown('class', name, VOC.class_names)}")
        corners = [_number(item, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            raise DataError(
                f"{path_text(file)}: object {number}: bndbox is not four numbers: xmin, ymin, xmax, ymax. Correct or "
                "remove it."
            )
        left, top, right, bottom = (value for value in corners if value is not None)
        # VOC counts pixels from 1 and includes the last one
        objects.append(((left - 1, top - 1, right, bottom), VOC.class_names.index(name) + 1))
    width, height = _number(root, "size/width"), _number(root, "size/height")
    return AnnotatedImage(image, (int(width), int(height)) if width and height else None, objects, file)


def _text(item: ElementTree.Element, path: str) -> str:
    return (item.findtext(path) or "").strip()


def _number(item: ElementTree.Element, path: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(_text(item, path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None

"""Pascal VOC 2012, 20 classes: 5,717 + 5,823 photographs with boxes, 1,464 + 1,449 with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision

from mnet.data.annotated_photographs import AnnotatedPhotographs, Source, check_mask, clip_boxes
from mnet.data.streams import Split
from mnet.data.transforms import Sample
from mnet.errors import DataError, unknown


class VOC(AnnotatedPhotographs):
    """Pascal VOC, unpacked in `data_dir`. Objects marked difficult are left out of training and evaluation, as in
    VOC's own metric."""

    name = "voc"
    tasks = ("detection", "segmentation")
    native_resolution = 320
    train_size = 5_717
    class_names = (
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip

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
        return VocBoxes(data) if detection else VocMasks(data)


class VocBoxes(Source):
    """Boxes of objects that are not marked difficult."""

    def read(self, index: int) -> Sample:
        file = self.data.annotations[index]
        image, target = self.load(index, Path(self.data.images[index]), Path(file))
        objects = [item for item in target["annotation"].get("object", []) if item.get("difficult") != "1"]
        corners = [[float(item["bndbox"][end]) for end in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        boxes[:, :2] -= 1  # VOC counts pixels from 1 and includes the last one
        labels = torch.tensor([_label(item["name"], file) for item in objects], dtype=torch.int64)
        return Sample(image, clip_boxes(boxes, labels, image))


class VocMasks(Source):
    """Masks with VOC's own class indices, the background 0."""

    def read(self, index: int) -> Sample:
        file = Path(self.data.masks[index])
        image, mask = self.load(index, Path(self.data.images[index]), file)
        return Sample(image, check_mask(np.array(mask), image, file, VOC.classes("segmentation")))


def _label(name: str, file: str) -> int:
    if name not in VOC.class_names:
        raise DataError(f"{file}: {unknown('class', name, VOC.class_names)}")
    return VOC.class_names.index(name) + 1

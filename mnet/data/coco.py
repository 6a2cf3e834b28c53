"""COCO 2017: 118,287 + 5,000 photographs with boxes of 80 classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision

from mnet.data.annotated_photographs import AnnotatedPhotographs, Source, clip_boxes
from mnet.data.streams import Split
from mnet.data.transforms import Sample
from mnet.errors import DataError


class COCO(AnnotatedPhotographs):
    """COCO, unpacked in `data_dir/coco`. Crowds are left out of training and evaluation."""

    name = "coco"
    named_by_files = True
    tasks = ("detection",)
    native_resolution = 320
    train_size = 118_287
    class_names = tuple(f"class {i}" for i in range(1, 81))  # until the annotations are read

    def source(self, split: Split) -> Source:
        folder = self.data_dir / "coco"
        images, file = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
        for path in (images, file):
            if not path.exists():
                raise DataError(
                    f"{path} is missing. Unpack {split}2017.zip and annotations_trainval2017.zip, from "
                    f"https://cocodataset.org, in {folder}."
                )
        try:
            data = torchvision.datasets.CocoDetection(str(images), str(file))
            categories = data.coco.loadCats(sorted(data.coco.getCatIds()))
        except (json.JSONDecodeError, KeyError, TypeError, AssertionError) as error:
            raise DataError(f"{file} cannot be read as COCO's annotations ({error!r}). Unpack it again.") from error
        if len(categories) != len(self.class_names):
            raise DataError(f"{file} has {len(categories)} categories, COCO has {len(self.class_names)}.")
        self.class_names = tuple(category["name"] for category in categories)
        return CocoSource(data, images, {category["id"]: i for i, category in enumerate(categories, 1)})


class CocoSource(Source):
    """Boxes without crowds, with contiguous classes from 1 on."""

    def __init__(self, data: torchvision.datasets.CocoDetection, images: Path, label_of: Mapping[int, int]) -> None:
        super().__init__(data)
        self.images, self.label_of = images, label_of

    def read(self, index: int) -> Sample:
        name = self.data.coco.loadImgs(self.data.ids[index])[0]["file_name"]
        image, annotations = self.load(index, self.images / name)
        objects = [annotation for annotation in annotations if not annotation.get("iscrowd")]
        boxes = torch.tensor([item["bbox"] for item in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([self.label_of[item["category_id"]] for item in objects], dtype=torch.int64)
        return Sample(image, clip_boxes(boxes, labels, image))

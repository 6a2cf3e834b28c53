"""COCO 2017: 118,287 + 5,000 photographs with boxes of 80 classes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from mnet.data.annotated_photographs import AnnotatedPhotographs
from mnet.data.annotated_sources import AnnotatedImage, BoxSource, Source
from mnet.data.published_files import Split
from mnet.errors import DataError, path_text, shown


class COCO(AnnotatedPhotographs):
    """COCO, unpacked in `data_dir/coco`. Crowds are left out of training and evaluation."""

    name = "coco"
    named_by_files = True
    tasks = ("detection",)
    native_resolution = 320
    train_size = 118_287
    published_sizes = MappingProxyType({"detection": (118_287, 5_000)})
    class_names = tuple(f"class {i}" for i in range(1, 81))  # until the annotations are read

    @classmethod
    def folder(cls, data_dir: Path) -> Path:
        return data_dir / "coco"

    def source(self, split: Split) -> Source:
        folder = self.folder(self.data_dir)
        images, file = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
        for path in (images, file):
            if not path.exists():
                raise DataError(
                    f"{path} is missing. Unpack {split}2017.zip and annotations_trainval2017.zip, from "
                    f"https://cocodataset.org, in {folder}."
                )
        content = read_annotations(file)
        names = {_field(item, "id", file, "category"): item for item in content["categories"]}
        if len(names) != len(self.class_names):
            raise DataError(f"{file} has {len(names)} categories, COCO has {len(self.class_names)}.")
        ids = sorted(names)
        self.class_names = tuple(str(_field(names[i], "name", file, "category")) for i in ids)
        return BoxSource(list_annotated(content, images, file, {i: label for label, i in enumerate(ids, 1)}))


def read_annotations(file: Path) -> Mapping[str, list[Any]]:
    """Read a file in COCO's format.

    Raises:
        DataError: It cannot be read, or is not in that format.
    """
    try:
        content = json.loads(file.read_bytes())
        lacking = [part for part in ("images", "annotations", "categories") if not isinstance(content[part], list)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as COCO's annotations ({error!r}). Unpack it again.") from error
    if lacking:
        raise DataError(f"{file} cannot be read as COCO's annotations: {lacking[0]} is not a list. Unpack it again.")
    return content


def list_annotated(
    content: Mapping[str, list[Any]], folder: Path, file: Path, label_of: Mapping[object, int]
) -> list[AnnotatedImage]:
    """The images sorted by id, with their objects in the order of the file.

    Raises:
        DataError: An image or an annotation is wrong; the message gives its id.
    """
    objects: dict[object, list[tuple[list[float], int]]] = {
        _field(item, "id", file, "image"): [] for item in content["images"]
    }
    for item in content["annotations"]:
        image = _field(item, "image_id", file, "annotation")
        if image not in objects:
            raise _wrong(item, file, "annotation", f"image {image!r} is not listed")
        if not item.get("iscrowd"):
            objects[image].append(_object(item, file, label_of))
    listed = {item["id"]: item for item in content["images"]}
    images = []
    for i in sorted(listed):
        width, height = listed[i].get("width"), listed[i].get("height")
        size = (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None
        name = str(_field(listed[i], "file_name", file, "image"))
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name:
            raise _wrong(listed[i], file, "image", f"file_name {shown(name)} points outside the folder of images")
        images.append(AnnotatedImage(folder / name, size, objects[i], file))
    return images


def _object(item: dict[str, Any], file: Path, label_of: Mapping[object, int]) -> tuple[list[float], int]:
    """Corners and class of an annotation."""
    category, box = (_field(item, key, file, "annotation") for key in ("category_id", "bbox"))
    if category not in label_of:
        raise _wrong(item, file, "annotation", f"category {category!r} is not listed")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise _wrong(item, file, "annotation", f"bbox is {box!r}; expected 4 numbers: left, top, width, height")
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height], label_of[category]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _field(item: object, key: str, file: Path, kind: str) -> Any:
    """A value of an image, an annotation or a category. An id is an integer or a string."""
    if not isinstance(item, dict) or key not in item:
        raise _wrong(item, file, kind, f"{key} is missing")
    value = item[key]
    if key.endswith("id") and not isinstance(value, int | str):
        raise _wrong(item, file, kind, f"{key} is {value!r}")
    return value


def _wrong(item: object, file: Path, kind: str, problem: str) -> DataError:
    name = (
        f"{kind} {item['id']!r}" if isinstance(item, dict) and "id" in item else f"{kind} without an id: {item!r:.80}"
    )
    return DataError(path_text(f"{file}: {name}: {problem}. Correct or remove it."))

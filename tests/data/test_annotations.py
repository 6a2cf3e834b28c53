"""Wrong annotations are reported by file and id before training; boxes and masks follow their rotated images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnet.data import ImageData, create_data
from mnet.data.targets import IGNORED
from mnet.errors import DataError

CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""COCO's 80 category ids."""
SIZE = 48, 32
"""Width and height of an image as displayed."""
OBJECT = 8, 4, 24, 28
"""Left, top, right and bottom of its red object."""
STORE = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE,
}  # fmt: skip
"""EXIF orientation -> how a camera transposes the image that it stores."""


def scene(path: Path, orientation: int = 1, *, tag: bool = True) -> None:
    """Write a red object on black, stored as a camera does."""
    image = Image.new("RGB", SIZE)
    image.paste((255, 0, 0), OBJECT)
    save(image, path, orientation, tag=tag)


def save(image: Image.Image, path: Path, orientation: int, *, tag: bool = True) -> None:
    turned = STORE[orientation]
    exif = Image.Exif()
    if tag:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if turned is None else image.transpose(turned)).save(path, exif=exif)


def coco(root: Path, change: Callable[[dict[str, Any]], object] = lambda content: None, count: int = 3) -> Path:
    """Write COCO's layout; `change` edits the validation annotations."""
    left, top, right, bottom = OBJECT
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(1, count + 1)]
        for item in images:
            scene(root / f"coco/{split}2017" / str(item["file_name"]))
        box = [left, top, right - left, bottom - top]
        content = {
            "images": images,
            "annotations": [{"id": 70 + i, "image_id": i, "category_id": 18, "bbox": box} for i in range(1, count + 1)],
            "categories": [{"id": i, "name": f"thing {i}"} for i in CATEGORIES],
        }
        if split == "val":
            change(content)
        file = root / f"coco/annotations/instances_{split}2017.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def voc(
    root: Path, objects: str = "", *, orientation: int = 1, tag: bool = True, mask: Image.Image | None = None
) -> Path:
    """Write VOC's layout, with three images in each split."""
    base = root / "VOCdevkit/VOC2012"
    names = [f"2012_{i}" for i in range(3)]
    for folder in ("Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for name in names:
        scene(base / f"JPEGImages/{name}.jpg", orientation, tag=tag)
        (base / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (mask or indices()).save(base / f"SegmentationClass/{name}.png")
    for kind in ("Main", "Segmentation"):
        for split in ("train", "val"):
            (base / f"ImageSets/{kind}/{split}.txt").write_text("\n".join(names) + "\n")
    return root


def indices() -> Image.Image:
    """The object's mask, class 8, as displayed."""
    mask = Image.new("P", SIZE)
    mask.putpalette([0, 0, 0] * 8 + [64, 0, 0])
    mask.paste(8, OBJECT)
    return mask


def opened(name: str, root: Path, **settings: object) -> ImageData:
    data = create_data(name, data_dir=root, batch_size=2, resolution=48, **settings)
    data.prepare_data()
    data.setup()
    return data


def first(data: ImageData) -> tuple[torch.Tensor, Any]:
    """Where the first test image is red, as a bool tensor (H, W), and its target."""
    images, target = next(iter(data.test_dataloader()))
    return images[0, 0] * data.std[0] + data.mean[0] > 0.5, target


def touches(red: torch.Tensor, box: torch.Tensor) -> bool:
    """Whether a box fits the red object to within 1.5 pixels."""
    rows, columns = torch.nonzero(red.any(1)).flatten(), torch.nonzero(red.any(0)).flatten()
    around = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return bool((around - box).abs().max() <= 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda item: item.update(category_id=0), "category 0 is not listed"),
        (lambda item: item.update(category_id=[]), r"category_id is \[\]"),
        (lambda item: item.pop("category_id"), "category_id is missing"),
        (lambda item: item.update(bbox=[]), r"bbox is \[\]; expected 4 numbers"),
        (lambda item: item.update(bbox=[1, 2, 3]), "expected 4 numbers"),
        (lambda item: item.update(bbox=[1, 2, "3", 4]), "expected 4 numbers"),
        (lambda item: item.update(bbox=[1, 2, None, 4]), "expected 4 numbers"),
        (lambda item: item.update(bbox=[1, 2, float("nan"), 4]), "expected 4 numbers"),
        (lambda item: item.update(bbox={"x": 1}), "expected 4 numbers"),
        (lambda item: item.pop("bbox"), "bbox is missing"),
        (lambda item: item.update(image_id=99), "image 99 is not listed"),
        (lambda item: item.pop("image_id"), "image_id is missing"),
    ],
)
def test_a_wrong_annotation_is_named_by_file_and_id_when_the_data_is_opened(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    root = coco(tmp_path, lambda content: change(content["annotations"][2]))
    with pytest.raises(DataError, match=rf"instances_val2017\.json: annotation 73: .*{message}") as error:
        create_data("coco", data_dir=root).prepare_data()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "cannot be read as COCO's annotations"),
        (lambda content: content.update(annotations=3), "annotations is not a list"),
        (lambda content: content["annotations"].append(7), "annotation without an id: 7"),
        (lambda content: content["annotations"][0].pop("bbox"), "annotation 71: bbox is missing"),
        (lambda content: content["images"][0].pop("file_name"), "image 1: file_name is missing"),
        (lambda content: content["images"][0].update(file_name="gone.jpg"), r"val2017.gone\.jpg is missing, but"),
        (lambda content: content["images"][0].update(file_name="\ud800.jpg"), r"ud800\.jpg is missing, but"),
        (lambda content: content["categories"][0].pop("name"), "category 1: name is missing"),
    ],
)
def test_a_wrong_file_of_annotations_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        create_data("coco", data_dir=coco(tmp_path, change)).prepare_data()
    assert "\n" not in str(error.value)
    str(error.value).encode()


def test_a_crowd_is_left_out_whatever_its_box(tmp_path: Path) -> None:
    def crowd(content: dict[str, Any]) -> None:
        content["annotations"][0].update(iscrowd=1, bbox=[])

    _, boxes = first(opened("coco", coco(tmp_path, crowd)))
    assert boxes.labels[0].tolist() == [0]


@pytest.mark.parametrize("orientation", STORE)
def test_boxes_of_a_turned_image_are_around_their_objects(tmp_path: Path, orientation: int) -> None:
    root = coco(tmp_path)
    scene(root / "coco/val2017/1.png", orientation)
    red, boxes = first(opened("coco", root))
    assert touches(red, boxes.of(0)[0][0])


def test_boxes_that_were_drawn_on_the_image_as_it_is_stored_stay_there(tmp_path: Path) -> None:
    def as_stored(content: dict[str, Any]) -> None:
        left, top, right, bottom = OBJECT
        box = [top, SIZE[0] - right, bottom - top, right - left]  # turned by 90 degrees
        content["images"][0].update(width=SIZE[1], height=SIZE[0])
        content["annotations"][0].update(bbox=box)

    root = coco(tmp_path, as_stored)
    scene(root / "coco/val2017/1.png", 6)
    red, boxes = first(opened("coco", root))
    assert touches(red, boxes.of(0)[0][0])


def test_an_image_of_another_size_than_the_annotated_one_is_refused_by_name(tmp_path: Path) -> None:
    root = coco(tmp_path)
    scene(root / "coco/val2017/1.png", 6, tag=False)  # its orientation was lost
    with pytest.raises(DataError, match=r"val2017.1\.png is 32x48 pixels, and 48x32 in .*instances_val2017\.json"):
        first(opened("coco", root))


CAT = "<object><name>cat</name><bndbox>{}</bndbox></object>"
BOX = "<xmin>9</xmin><ymin>5</ymin><xmax>24</xmax><ymax>28</ymax>"
VOC_SIZE = "<size><width>48</width><height>32</height></size>"


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (CAT.format(""), "object 1: bndbox is not four numbers"),
        (CAT.format(BOX) + CAT.format(BOX.replace("9", "left")), "object 2: bndbox is not four numbers"),
        (CAT.format(BOX.replace("9", "nan")), "object 1: bndbox is not four numbers"),
        ("<object/>", "object 1: unknown class ''"),
        (CAT.replace("cat", "kat").format(BOX), "object 1: unknown class 'kat'.*Did you mean cat"),
        ("<object>", r"2012_0\.xml cannot be read"),
    ],
)
def test_a_wrong_object_of_voc_is_named_when_the_data_is_opened(tmp_path: Path, objects: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"2012_0\.xml.*{message}|{message}"):
        create_data("voc", data_dir=voc(tmp_path, objects)).prepare_data()


def test_a_missing_file_of_voc_is_named_when_the_data_is_opened(tmp_path: Path) -> None:
    base = voc(tmp_path, CAT.format(BOX)) / "VOCdevkit/VOC2012"
    (base / "SegmentationClass/2012_1.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationClass.2012_1\.png cannot be read as an image \(No such file"):
        create_data("voc", data_dir=tmp_path, task="segmentation").prepare_data()
    (base / "JPEGImages/2012_2.jpg").unlink()
    with pytest.raises(DataError, match=r"2012_2\.jpg is missing, but .*2012_2\.xml"):
        create_data("voc", data_dir=tmp_path).prepare_data()


@pytest.mark.parametrize("size", ["", VOC_SIZE])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_boxes_of_voc_follow_their_turned_images(tmp_path: Path, orientation: int, size: str) -> None:
    red, boxes = first(opened("voc", voc(tmp_path, size + CAT.format(BOX), orientation=orientation)))
    assert touches(red, boxes.of(0)[0][0])


def agree(red: torch.Tensor, classes: torch.Tensor) -> bool:
    labelled = classes != IGNORED
    return bool(((classes == 8) == red)[labelled].float().mean() > 0.95)


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("mask_turned", [True, False])
def test_masks_lie_on_their_turned_images(tmp_path: Path, orientation: int, mask_turned: bool) -> None:
    root = voc(tmp_path, orientation=orientation)
    if mask_turned:  # stored with the same orientation
        for path in (root / "VOCdevkit/VOC2012/SegmentationClass").iterdir():
            save(indices(), path, orientation)
    red, masks = first(opened("voc", root, task="segmentation"))
    assert agree(red, masks.classes[0])


def test_a_mask_that_was_drawn_on_the_image_as_it_is_stored_stays_there(tmp_path: Path) -> None:
    turned = STORE[6]
    assert turned is not None
    red, masks = first(
        opened("voc", voc(tmp_path, orientation=6, mask=indices().transpose(turned)), task="segmentation")
    )
    assert agree(red, masks.classes[0])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (indices().convert("RGB"), r"has 3 channels \(RGB\) where class indices are expected"),
        (indices().convert("RGBA"), r"has 4 channels \(RGBA\)"),
        (indices().convert("LA"), r"has 2 channels \(LA\)"),
        (indices().resize((24, 32)), "is 24x32 pixels, its image 48x32. A mask must have its image's size"),
    ],
)
def test_a_wrong_mask_is_named_when_the_data_is_opened(tmp_path: Path, mask: Image.Image, message: str) -> None:
    with pytest.raises(DataError, match=rf"2012_0\.png {message}"):
        create_data("voc", data_dir=voc(tmp_path, mask=mask), task="segmentation").prepare_data()


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_masks_of_one_channel_are_indices(tmp_path: Path, mode: str) -> None:
    mask = indices() if mode == "P" else Image.fromarray(np.asarray(indices()).astype({"L": "u1", "I;16": "u2"}[mode]))
    red, masks = first(opened("voc", voc(tmp_path, mask=mask), task="segmentation"))
    assert agree(red, masks.classes[0])


@pytest.mark.parametrize(("value", "message"), [(21, "has class 21; expected 0 to 20"), (300, "has class 300")])
def test_a_class_out_of_range_is_named(tmp_path: Path, value: int, message: str) -> None:
    mask = Image.fromarray(np.full((SIZE[1], SIZE[0]), value, np.uint16))
    with pytest.raises(DataError, match=rf"2012_\d\.png {message}"):
        first(opened("voc", voc(tmp_path, mask=mask), task="segmentation"))


def test_a_coloured_mask_of_cityscapes_is_refused_by_name(tmp_path: Path) -> None:
    name = "cityscapes/{}/{}/town/town_0_0_{}.png"
    for split in ("train", "val"):
        scene(tmp_path / name.format("leftImg8bit", split, "leftImg8bit"))
        scene(tmp_path / name.format("gtFine", split, "gtFine_labelIds"))
    with pytest.raises(DataError, match=r"gtFine_labelIds\.png has 3 channels \(RGB\)"):
        create_data("cityscapes", data_dir=tmp_path).prepare_data()


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (5, 1), (50, 10), (300, 60)])
def test_few_annotated_images_are_split(tmp_path: Path, count: int, held_out: int) -> None:
    data = opened("coco", coco(tmp_path, count=count))
    sizes = [len(part.rows) for part in data._splits.values()]
    assert sizes == [count - held_out, held_out, count]
    images, _ = next(iter(data.train_dataloader()))
    assert len(images) == min(2, count - held_out)


def test_one_training_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"coco has 1 training images in .*; expected at least 2"):
        opened("coco", coco(tmp_path, count=1))

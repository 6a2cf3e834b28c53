"""COCO, Pascal VOC and Cityscapes, read from small folders that the tests write in the published format."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mnet.data import COCO, VOC, Cityscapes, create_data
from mnet.data.targets import IGNORED
from mnet.errors import ConfigError, DataError
from mnet.studies import Trial
from mnet.studies.runs.images import list_changes

SIZE = 120, 80  # width and height of every image
LEFT = (12, 8, 48, 40)  # a red square: left, top, right, bottom


def image(path: Path, boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> None:
    """A black image with a red square in each box."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_coco(root: Path, objects: list[list[dict]]) -> Path:
    """Write the same images to train and val; `objects` has the annotations of each image, without ids."""
    for split in ("train", "val"):
        images, annotations = [], []
        for i, items in enumerate(objects):
            boxes = [tuple(int(v) for v in (x, y, x + w, y + h)) for x, y, w, h in (item["bbox"] for item in items)]
            image(root / f"coco/{split}2017/{i:012}.png", [b for b in boxes if b[2] > b[0] and b[3] > b[1]])
            images.append({"id": i, "file_name": f"{i:012}.png", "width": SIZE[0], "height": SIZE[1]})
            annotations += [
                {"id": 100 * i + k, "image_id": i, "area": 1.0, "iscrowd": 0, **item} for k, item in enumerate(items)
            ]
        ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's own
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": f"kind {k}"} for k in ids],
        }
        file = root / f"coco/annotations/instances_{split}2017.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def write_voc(root: Path, objects: list[list[tuple[str, tuple, int]]], mask: np.ndarray | None = None) -> Path:
    """Each object is a name, a box as VOC counts (from 1, last pixel included) and whether it is difficult."""
    base, names = root / "VOCdevkit/VOC2012", []
    for i, items in enumerate(objects):
        names.append(f"2012_{i:06}")
        image(base / f"JPEGImages/{names[-1]}.jpg", [(b[0] - 1, b[1] - 1, b[2], b[3]) for _, b, _ in items])
        ends = ("xmin", "ymin", "xmax", "ymax")
        tags = "".join(
            f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
            + "".join(f"<{end}>{value}</{end}>" for end, value in zip(ends, box, strict=True))
            + "</bndbox></object>"
            for name, box, hard in items
        )
        (base / "Annotations").mkdir(exist_ok=True)
        (base / f"Annotations/{names[-1]}.xml").write_text(f"<annotation><folder>VOC2012</folder>{tags}</annotation>")
        pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8) if mask is None else mask
        (base / "SegmentationClass").mkdir(exist_ok=True)
        file = Image.fromarray(pixels, mode="P")
        file.putpalette([0] * 768)
        file.save(base / f"SegmentationClass/{names[-1]}.png")
    for kind in ("Main", "Segmentation"):
        (base / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            (base / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_cityscapes(root: Path, ids: np.ndarray, count: int = 3) -> Path:
    for split in ("train", "val"):
        for i in range(count):
            name = f"town_{i:06}_000019"
            folder = root / f"cityscapes/leftImg8bit/{split}/town"
            image(folder / f"{name}_leftImg8bit.png", [LEFT], (ids.shape[1], ids.shape[0]))
            fine = root / f"cityscapes/gtFine/{split}/town"
            fine.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(fine / f"{name}_gtFine_labelIds.png")
    return root


def ready(name: str, root: Path, **settings):
    data = create_data(name, data_dir=root, val_size=1, batch_size=2, **settings)
    data.prepare_data()
    data.setup()
    return data


def red(image: torch.Tensor, data) -> torch.Tensor:
    """Where a normalised image (3, H, W) is red."""
    return image[0] * data.std[0] + data.mean[0] > 0.5


def test_coco_boxes_are_scaled_with_the_image_and_classes_are_contiguous(tmp_path):
    square = {"bbox": [12, 8, 36, 32], "category_id": 13}
    crowd = {"bbox": [0, 0, 120, 80], "category_id": 1, "iscrowd": 1}
    data = ready("coco", write_coco(tmp_path, [[square], [square, crowd], []]), resolution=64)
    images, boxes = next(iter(data.test_dataloader()))
    assert images.shape == (2, 3, 64, 64)
    expected = torch.tensor([12 * 64 / 120, 8 * 64 / 80, 48 * 64 / 120, 40 * 64 / 80])
    for i in range(2):
        corners, labels = boxes.of(i)
        torch.testing.assert_close(corners, expected[None])
        assert labels.tolist() == [12]  # 12 is not in COCO, so 13 is the twelfth
    assert (data.num_classes, data.class_names[11]) == (80, "kind 13")


def test_images_without_objects_are_kept_and_degenerate_boxes_are_dropped(tmp_path):
    bad = [[5, 5, 0, 9], [5, 5, -4, 9], [130, 5, 20, 20], [5, 5, 0.4, 30], [110, 60, 40, 40]]
    objects = [[], [{"bbox": box, "category_id": 1} for box in bad]]
    data = ready("coco", write_coco(tmp_path, objects), resolution=60)
    _, boxes = next(iter(data.test_dataloader()))
    assert len(boxes.of(0)[0]) == 0
    torch.testing.assert_close(boxes.of(1)[0], torch.tensor([[55.0, 45, 60, 60]]))  # clipped to the image
    for _ in range(3):
        for _, target in data.train_dataloader():
            width = (target.boxes[..., 2:] - target.boxes[..., :2])[target.labels > 0]
            assert (width >= 1).all()


def test_flips_and_crops_move_an_image_and_its_boxes_together(tmp_path):
    square = {"bbox": [12, 8, 36, 32], "category_id": 1}
    data = ready("coco", write_coco(tmp_path, [[square]] * 9), resolution=96)
    loader, sides, count = data.train_dataloader(), set(), 0
    for epoch in range(4):
        loader.set_epoch(epoch)
        for images, boxes in loader:
            for i in range(len(images)):
                for left, top, right, bottom in boxes.of(i)[0].round().int().tolist():
                    inside = red(images[i], data)[top + 2 : bottom - 2, left + 2 : right - 2]
                    assert inside.float().mean() > 0.95
                    sides.add(left > 48)
                    count += 1
    assert count > 20
    assert sides == {True, False}


def test_voc_boxes_count_from_one_and_difficult_objects_are_dropped(tmp_path):
    objects = [[("cat", (13, 9, 48, 40), 0), ("person", (50, 50, 90, 70), 1)], [("tvmonitor", (1, 1, 120, 80), 0)]]
    data = ready("voc", write_voc(tmp_path, objects), resolution=80)
    images, boxes = next(iter(data.test_dataloader()))
    torch.testing.assert_close(boxes.of(0)[0], torch.tensor([[12 * 80 / 120, 8.0, 48 * 80 / 120, 40]]))
    torch.testing.assert_close(boxes.of(1)[0], torch.tensor([[0.0, 0, 80, 80]]))
    assert [boxes.of(i)[1].tolist() for i in range(2)] == [[8], [20]]
    assert red(images[0], data)[10:38, 10:30].all()


def test_voc_masks_keep_the_aspect_ratio_and_unlabelled_pixels(tmp_path):
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[8:40, 12:48], mask[40:44, 12:48] = 15, IGNORED
    data = ready(
        "voc", write_voc(tmp_path, [[("person", (13, 9, 48, 40), 0)]] * 3, mask), resolution=60, task="segmentation"
    )
    images, masks = next(iter(data.test_dataloader()))
    assert (data.num_classes, images.shape, masks.classes.shape) == (21, (2, 3, 60, 60), (2, 60, 60))
    assert (masks.classes[0, 40:] == IGNORED).all()  # 120 x 80 in 60 x 60 has 40 rows
    assert set(masks.classes[0, :40].unique().tolist()) == {0, 15, IGNORED}
    assert ((masks.classes[0, :40] == 15) == red(images[0], data)[:40]).float().mean() > 0.97
    for images, masks in data.train_dataloader():
        agree = ((masks.classes == 15) == torch.stack([red(image, data) for image in images]))[masks.classes != IGNORED]
        assert agree.float().mean() > 0.95


def test_cityscapes_has_19_classes_and_is_evaluated_at_an_aspect_ratio_of_two(tmp_path):
    ids = np.full((64, 128), 7, np.uint8)  # road
    ids[:8], ids[8:40, 12:48] = 1, 26  # ego vehicle (not evaluated); car
    data = ready("cityscapes", write_cityscapes(tmp_path, ids), resolution=32)
    images, masks = next(iter(data.test_dataloader()))
    assert (data.num_classes, images.shape) == (19, (2, 3, 32, 64))
    assert set(masks.classes.unique().tolist()) == {0, 13, IGNORED}
    assert (data.class_names[0], data.class_names[13]) == ("road", "car")
    assert next(iter(data.train_dataloader()))[0].shape == (2, 3, 32, 32)


def test_data_sets_can_be_sent_to_workers(tmp_path, monkeypatch):
    """Workers receive only the path of the images on disk, and map them."""
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))
    roots = [
        ("coco", "detection", write_coco(tmp_path / "coco", [[], [], []])),
        ("voc", "detection", write_voc(tmp_path / "voc", [[("cat", (13, 9, 48, 40), 0)]] * 3)),
        ("voc", "segmentation", tmp_path / "voc"),
        ("cityscapes", "segmentation", write_cityscapes(tmp_path / "city", np.full((32, 64), 7, np.uint8))),
    ]
    for name, task, root in roots:
        memory, disk = (ready(name, root, task=task, resolution=32, storage=storage) for storage in ("memory", "disk"))
        disk.share()
        sent = pickle.dumps(disk)
        assert len(sent) < 10_000
        for data in (disk, pickle.loads(sent)):
            for (images, targets), (expected, same) in zip(
                data.train_dataloader(), memory.train_dataloader(), strict=True
            ):
                assert images.equal(expected)
                assert all(ours.equal(theirs) for ours, theirs in zip(targets, same, strict=True))


def test_changed_annotations_and_images_are_another_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))
    root = write_coco(tmp_path / "data", [[], [], []])
    before = ready("coco", root, resolution=32).description()
    assert before["images"] == Trial(dataset="coco", head="ssdlite", data_dir=root).fingerprint
    image(root / "coco/val2017/000000000000.png", [(1, 1, 9, 9)])
    (root / "coco/train2017/note.txt").write_text("more")
    now = ready("coco", root, resolution=32).description()
    assert now["images"] != before["images"]
    assert list(list_changes(before["classes"], now["classes"])) == [
        "1 image more in train2017",
        "other images in val2017",
    ]


def test_an_epoch_resumes_with_the_same_batches(tmp_path):
    objects = [[{"bbox": [12 + i, 8, 36, 32], "category_id": 1}] for i in range(7)]
    data = ready("coco", write_coco(tmp_path, objects), resolution=48)
    loader = data.train_dataloader()
    loader.set_epoch(1)
    whole = list(loader)
    resumed = ready("coco", tmp_path, resolution=48).train_dataloader()
    resumed.load_state_dict({"epoch": 1, "position": 1})
    rest = list(resumed)
    assert len(rest) == len(whole) - 1
    for (images, boxes), (resumed_images, resumed_boxes) in zip(whole[1:], rest, strict=True):
        assert torch.equal(images, resumed_images)
        assert torch.equal(boxes.boxes, resumed_boxes.boxes)
    loader.set_epoch(2)
    assert not torch.equal(next(iter(loader))[0], whole[0][0])


@pytest.mark.parametrize(
    ("name", "archive"), [("coco", "annotations_trainval2017.zip"), ("voc", "VOCtrainval"), ("cityscapes", "gtFine")]
)
def test_the_error_for_missing_files_names_the_archive(tmp_path, name, archive):
    with pytest.raises(DataError, match=archive):
        create_data(name, data_dir=tmp_path).prepare_data()


def test_errors_name_unreadable_files(tmp_path):
    root = write_coco(tmp_path / "a", [[], [], []])
    (root / "coco/val2017/000000000000.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"val2017.000000000000\.png cannot be read"):
        next(iter(ready("coco", root).test_dataloader()))
    (root / "coco/annotations/instances_val2017.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_val2017\.json cannot be read"):
        create_data("coco", data_dir=root).prepare_data()
    root = write_voc(tmp_path / "b", [[("cat", (13, 9, 48, 40), 0)]] * 3)
    for file in (root / "VOCdevkit/VOC2012/Annotations").iterdir():
        file.write_text("<annotation>")
    with pytest.raises(DataError, match=r"Annotations.*\.xml cannot be read"):
        create_data("voc", data_dir=root).prepare_data()


def test_an_unsupported_task_raises(tmp_path):
    with pytest.raises(ConfigError, match="unknown task of coco 'segmentation'; one of detection"):
        create_data("coco", data_dir=tmp_path, task="segmentation")


def test_the_number_of_classes_is_the_published_one():
    assert (COCO.classes("detection"), VOC.classes("detection"), VOC.classes("segmentation")) == (80, 20, 21)
    assert Cityscapes.classes("segmentation") == 19
    assert {kind.name for kind in datasets.Cityscapes.classes if kind.ignore_in_eval}.isdisjoint(Cityscapes.class_names)

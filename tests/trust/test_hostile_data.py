"""Parts of published data sets under the published name, and annotations that lead out of their folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from mnet.data import COCO, Imagenette
from mnet.data.summary import describe
from mnet.errors import DataError


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    return path


def coco(root: Path, file_name: str = "0.jpg") -> Path:
    """Two photographs for training and two for validation, in COCO's layout."""
    for split, name in (("train", "0.jpg"), ("val", file_name)):
        for drawn in ("0.jpg", "1.jpg"):
            draw(root / "coco" / f"{split}2017" / drawn)
        content = {
            "images": [
                {"id": i, "file_name": file, "width": 30, "height": 20} for i, file in ((1, name), (2, "1.jpg"))
            ],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
            "categories": [{"id": i, "name": f"c{i}"} for i in range(1, 81)],
        }
        path = root / "coco/annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def test_an_unpacking_of_imagenette_that_was_interrupted_is_not_the_benchmark(tmp_path, monkeypatch):
    for split, count in (("train", 4), ("val", 2)):
        for name in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            for i in range(count):
                draw(tmp_path / "imagenette2-160" / split / name / f"{i}.JPEG")
    data = Imagenette(data_dir=tmp_path, resolution=16, val_size=5)
    with pytest.raises(
        DataError, match="40 training and 20 test images of imagenette, not the published 9,469 and 3,925"
    ):
        data.setup()
    monkeypatch.setattr(Imagenette, "published_sizes", {"classification": (40, 20)})
    Imagenette(data_dir=tmp_path, resolution=16, val_size=5).setup()


def test_a_part_of_coco_is_said_to_be_other_images(tmp_path):
    """tests/studies/claims/test_evidence.py tests what its results count as."""
    data = COCO(data_dir=coco(tmp_path), resolution=32)
    data.prepare_data()
    data.setup()
    *_, line = describe(data)
    assert "images of coco, not the published 118,287 and 5,000: these are your own images in its format" in line


@pytest.mark.parametrize("name", ["../../../private.jpg", "/private.jpg", "a/../../../../private.jpg", "a\0.jpg"])
def test_an_image_of_coco_stays_in_its_folder(tmp_path, name):
    draw(tmp_path / "private.jpg")
    root = coco(tmp_path / "data", str(tmp_path) + name if name.startswith("/") else name)
    with pytest.raises(DataError, match=r"image 1: file_name .* points outside the folder of images"):
        COCO(data_dir=root).source("val")

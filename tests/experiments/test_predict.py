"""predict.py on a user's images: boxes and masks in the image's pixels, and its errors."""

import json
from pathlib import Path

import numpy as np
import predict as program
import pytest
import torch
from PIL import Image

import mnet
from mnet.data.decoding import open_image
from mnet.files import write_json, write_torch, write_yaml
from mnet.studies import Trial
from mnet.studies.runs.predictions import load_predictor
from mnet.tasks.boxes import Detections

SETTINGS = {"dataset": "scenes", "model": "mobilenet_v3_small", "width": 0.35, "resolution": 64, "recipe": "scenes"}
SIZE = 200, 100  # width and height of the image


def finished(folder: Path, **settings) -> Path:
    """A finished run with untrained weights."""
    trial = Trial(**settings)
    network = trial.network(11 if trial.task.name == "segmentation" else 10, 1)
    write_yaml(folder / "config.yaml", trial.settings())
    write_torch(folder / "weights.pt", mnet.create_model(network).state_dict())
    write_json(folder / "result.json", {trial.task.headline.name: 50.0})
    return folder


@pytest.fixture
def image(tmp_path) -> Path:
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[20:60, 120:180] = 200
    path = tmp_path / "photos" / "one.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    return path


def test_boxes_are_in_the_pixels_of_the_image(tmp_path, image, capsys, monkeypatch):
    """The network sees 64 x 64; the image is 200 x 100."""
    folder = finished(tmp_path / "run", head="ssdlite", **SETTINGS)
    detections = Detections(
        torch.tensor([[32.0, 16, 48, 48], [0, 0, 8, 8]]), torch.tensor([0.9, 0.3]), torch.tensor([2, 1])
    )
    monkeypatch.setattr("mnet.tasks.detection.SSDLiteDetector.predict", lambda self, images: [detections])
    assert program.main([str(folder), str(image), f"--out={tmp_path / 'out'}"]) == 0
    written = json.loads((tmp_path / "out/predictions.json").read_text())[str(image)]
    box = [32 * 200 / 64, 16 * 100 / 64, 48 * 200 / 64, 48 * 100 / 64]
    assert written == {"objects": [{"class": "trouser", "score": 0.9, "box": box}]}
    assert Image.open(tmp_path / "out/one.predicted.png").size[0] > 300
    assert Image.open(image).size == SIZE  # untouched


def test_masks_are_as_large_as_the_image_and_keep_its_aspect(tmp_path, image, monkeypatch):
    folder = finished(tmp_path / "run", head="lr_aspp", **SETTINGS)
    predictor = load_predictor(folder)
    sizes = []

    def halves(self, images):
        sizes.append(images.shape)
        mask = torch.zeros(images.shape[2:], dtype=torch.uint8)
        mask[:, images.shape[3] // 2 :] = 3
        return [mask]

    monkeypatch.setattr("mnet.tasks.segmentation.ASPPSegmenter.predict", halves)
    mask = predictor.predict(open_image(image))
    assert sizes == [(1, 1, 64, 128)]  # the shorter side at the run's resolution
    assert mask.shape == (100, 200)
    assert mask[:, :100].max() == 0
    assert mask[:, 100:].min() == 3
    assert program.main([str(folder), str(image.parent), f"--out={tmp_path / 'out'}"]) == 0
    written = json.loads((tmp_path / "out/predictions.json").read_text())[str(image)]
    assert written == {"shares": {"background": 0.5, "pullover": 0.5}}


def test_a_run_is_found_by_its_id_and_a_classifier_lists_the_likeliest_classes(tmp_path, image):
    trial = Trial(model="mobilenet_v3_small", width=0.35)
    finished(tmp_path / "results/se/runs" / trial.run_id, model="mobilenet_v3_small", width=0.35)
    folders = [f"--results={tmp_path / 'results'}", f"--out={tmp_path / 'out'}"]
    assert program.main([trial.run_id[:8], str(image), *folders, "--top=3"]) == 0
    top = json.loads((tmp_path / "out/predictions.json").read_text())[str(image)]["top"]
    assert len(top) == 3
    assert {entry["class"] for entry in top} <= set(mnet.data.FashionMNIST.class_names)
    assert top[0]["probability"] >= top[1]["probability"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such image or folder: nowhere"),
        (["{photos}", "--score=2"], "score must be from 0 to 1"),
        (["{photos}", "--scoer=1"], "Did you mean score"),
        (["{empty}"], "no image in"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_drawn(tmp_path, image, capsys, arguments, message):
    folder = finished(tmp_path / "run", head="ssdlite", **SETTINGS)
    (tmp_path / "empty").mkdir()
    given = [argument.format(photos=image.parent, empty=tmp_path / "empty") for argument in arguments]
    assert program.main([str(folder), *given, f"--out={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_without_weights_is_an_error_and_an_unreadable_image_is_named(tmp_path, image, capsys):
    folder = finished(tmp_path / "run", head="ssdlite", **SETTINGS)
    (image.parent / "two.png").write_bytes(b"nothing")
    assert program.main([str(folder), str(image.parent), f"--out={tmp_path / 'out'}"]) == 1
    assert "two.png cannot be read" in capsys.readouterr().err
    assert (tmp_path / "out/one.predicted.png").exists()
    (folder / "weights.pt").unlink()
    assert program.main([str(folder), str(image)]) == 2
    assert "not a finished run with its weights.pt" in capsys.readouterr().err

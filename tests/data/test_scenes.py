"""scenes: reproducible bytes, boxes and masks that match the image, and batches of them."""

import hashlib

import numpy as np
import pytest
import torch

from mnet.data import ANNOTATED
from mnet.data.augment import Augment
from mnet.data.batches import TargetBatches
from mnet.data.decoded import Images
from mnet.data.scenes import (
    MIN_BOX_SIDE,
    MIN_VISIBLE,
    OBJECTS,
    Garments,
    ScenesData,
    compose,
    garment_counts,
    random_draws,
)
from mnet.data.targets import Boxes, Masks, pad_boxes
from mnet.errors import ConfigError
from mnet.studies.trial import Trial


def garments(count: int = 30, grey: int = 200) -> Garments:
    """Discs of brightness `grey`, larger from class to class."""
    position = np.arange(28) - 13.5
    distance = np.hypot(position[:, None], position)
    labels = np.arange(count) % 10
    pixels = np.where(distance[None] < (6 + labels[:, None, None] * 0.7), grey, 0).astype(np.uint8)
    return Garments(pixels, labels)


def test_a_scene_is_the_same_in_any_range_and_differs_between_splits():
    whole, part = compose(garments(), "train", range(600), 64), compose(garments(), "train", range(250, 530), 64)
    assert torch.equal(whole.images[250:530], part.images)
    assert torch.equal(whole.boxes.boxes[250:530], part.boxes.boxes)
    assert torch.equal(whole.masks.classes[250:530], part.masks.classes)
    assert not torch.equal(whole.images[:9], compose(garments(), "test", range(9), 64).images)


def test_scenes_have_the_same_bytes_on_every_machine():
    """Integer arithmetic, and random bits that are stable across versions of NumPy."""
    scenes = compose(garments(), "test", range(5), 48)
    digest = hashlib.sha256()
    for part in (scenes.images, scenes.boxes.boxes, scenes.boxes.labels, scenes.masks.classes):
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest() == "170f8716c8cb9c65b7c7ad97e94861576b918b6fb3135a911ec8c3c00f81aa15"


def test_boxes_are_tight_around_the_visible_part_of_each_garment():
    scenes = compose(garments(), "train", range(400), 96)
    counts, alone = garment_counts(random_draws("train", range(400))), 0
    for i in range(400):
        boxes, labels = scenes.boxes.of(i)
        mask = scenes.masks.classes[i]
        assert set(labels.tolist()) <= set(mask.unique().tolist())
        assert (boxes[:, 2:] - boxes[:, :2] >= MIN_BOX_SIDE).all()
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        if counts[i] == 1 and len(labels):
            rows, columns = torch.where(mask > 0)
            assert boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert mask[mask > 0].unique().tolist() == labels.tolist()
            alone += 1
    assert alone > 50


def test_empty_and_crowded_scenes_occur_and_mostly_hidden_garments_have_no_box():
    scenes = compose(garments(), "train", range(1000), 64)
    counts = (scenes.boxes.labels > 0).sum(1)
    shares = counts.bincount(minlength=OBJECTS + 1) / 1000
    assert 0.01 < shares[0] < 0.1
    assert shares[OBJECTS] > 0.03
    hidden = 0
    for i in range(1000):  # classes in the mask that have no box
        visible = set(scenes.masks.classes[i].unique().tolist()) - {0}
        hidden += bool(visible - set(scenes.boxes.labels[i].tolist()))
    assert hidden > 5
    assert MIN_VISIBLE > 0.2
    assert (scenes.boxes.boxes[scenes.boxes.labels == 0] == 0).all()
    assert ((scenes.boxes.labels > 0).int().diff(dim=1) <= 0).all()  # padding comes last


def data_of(task: str, monkeypatch, **settings) -> ScenesData:
    """Training garments are bright, test garments dim."""
    train, test = (
        Images(torch.from_numpy(part.pixels).unsqueeze(1), torch.from_numpy(part.labels))
        for part in (garments(40, 250), garments(40, 60))
    )
    monkeypatch.setattr(ScenesData, "read", lambda self: (train, test))
    monkeypatch.setattr("mnet.data.scenes.VAL_SIZE", 10)
    monkeypatch.setattr(ScenesData, "train_size", 150)
    monkeypatch.setattr(ScenesData, "test_size", 40)
    data = ScenesData(task=task, val_size=30, batch_size=16, **settings)
    data.setup()
    return data


def test_garments_of_test_never_appear_in_scenes_of_train(monkeypatch):
    data = data_of("segmentation", monkeypatch, resolution=64)
    brightest = {}
    for split in ("train", "val", "test"):
        images, masks, _ = data._splits[split]
        brightest[split] = int(images[:, 0][masks.classes > 0].max())
    assert brightest["test"] <= 60 < 150 < brightest["val"]
    assert brightest["train"] > 150


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_flips_move_images_and_targets_together_and_two_flips_cancel(task, monkeypatch):
    data = data_of(task, monkeypatch, resolution=64)
    images, targets, _ = data._splits["train"]
    all_images = torch.ones(len(images), dtype=torch.bool)
    twice = targets.mirrored(all_images, 64).mirrored(all_images, 64)
    assert all(torch.equal(a, b) for a, b in zip(twice, targets, strict=True))

    def batches(flip: bool) -> TargetBatches:
        settings = {"batch_size": 120, "mean": (0.0,), "std": (1 / 255,), "train": True, "seed": 3}
        return TargetBatches(images, targets, augment=Augment(flip=flip), **settings)

    (plain, plain_targets), (moved, moved_targets) = next(iter(batches(False))), next(iter(batches(True)))
    flipped = (plain != moved).flatten(1).any(1)
    assert 30 < flipped.sum() < 90
    assert torch.equal(torch.where(flipped.view(-1, 1, 1, 1), plain.flip(3), plain), moved)
    expected = plain_targets.mirrored(flipped, 64)
    assert all(torch.equal(a, b) for a, b in zip(expected, moved_targets, strict=True))


@pytest.mark.parametrize("data", ANNOTATED, ids=lambda data: data.name)
def test_a_recipe_of_classifiers_crops_no_image_away_from_its_boxes(data):
    assert data.augmentation("resized_crop") == data.flip_crop
    trial = Trial(model="mobilenet_v3_small", head="ssdlite", dataset="scenes", recipe="v3")
    assert trial.full_recipe().augment == "resized_crop"


def test_scenes_have_the_classes_of_their_task_and_refuse_invalid_settings(monkeypatch):
    assert (ScenesData.classes("detection"), ScenesData.classes("segmentation")) == (10, 11)
    data = data_of("segmentation", monkeypatch, resolution=32)
    assert data.label_names[:2] == ("background", "T-shirt/top")
    images, masks = next(iter(data.test_dataloader()))
    assert (images.shape, masks.classes.dtype) == ((16, 1, 32, 32), torch.uint8)
    for settings, message in (({"resolution": 31}, "32 pixels"), ({"task": "classification"}, "one of detection")):
        with pytest.raises(ConfigError, match=message):
            ScenesData(val_size=30, **settings)


def test_padding_and_unpadding_are_inverse_even_without_objects():
    objects = [(torch.rand(n, 4), torch.arange(1, n + 1)) for n in (2, 0, 3)]
    padded = pad_boxes(objects)
    assert padded.boxes.shape == (3, 3, 4)
    for i, (boxes, labels) in enumerate(objects):
        unpadded_boxes, unpadded_labels = padded.of(i)
        assert torch.equal(unpadded_boxes, boxes)
        assert torch.equal(unpadded_labels, labels)
    assert pad_boxes([(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2).boxes.shape == (2, 0, 4)
    assert isinstance(padded.select(slice(0, 2)), Boxes)
    assert isinstance(Masks(torch.zeros(2, 4, 4)).select(torch.tensor([1])), Masks)

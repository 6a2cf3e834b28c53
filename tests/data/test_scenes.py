"""scenes: the same bytes everywhere, boxes and masks that agree with what is drawn, and batches of them."""

import hashlib

import numpy as np
import pytest
import torch

from mnet.data.augment import Augment
from mnet.data.batches import TargetBatches
from mnet.data.module import Images
from mnet.data.scenes import HIDDEN, OBJECTS, THINNEST, Garments, ScenesData, compose, draws, wanted_in
from mnet.data.targets import Boxes, Masks, pad_boxes
from mnet.errors import ConfigError


def garments(count: int = 30, grey: int = 200) -> Garments:
    """Discs, wider from class to class; with `grey` in their middle."""
    place = np.arange(28) - 13.5
    far = np.hypot(place[:, None], place)
    labels = np.arange(count) % 10
    pixels = np.where(far[None] < (6 + labels[:, None, None] * 0.7), grey, 0).astype(np.uint8)
    return Garments(pixels, labels)


def test_a_scene_is_the_same_in_any_range_and_another_in_another_split():
    whole, part = compose(garments(), "train", range(600), 64), compose(garments(), "train", range(250, 530), 64)
    assert torch.equal(whole.images[250:530], part.images)
    assert torch.equal(whole.boxes.boxes[250:530], part.boxes.boxes)
    assert torch.equal(whole.masks.classes[250:530], part.masks.classes)
    assert not torch.equal(whole.images[:9], compose(garments(), "test", range(9), 64).images)


def test_scenes_are_these_bytes_on_every_machine():
    """Whole numbers alone, and random bits that no version of NumPy changes."""
    scenes = compose(garments(), "test", range(5), 48)
    digest = hashlib.sha256()
    for part in (scenes.images, scenes.boxes.boxes, scenes.boxes.labels, scenes.masks.classes):
        digest.update(part.numpy().tobytes())
    assert digest.hexdigest() == "170f8716c8cb9c65b7c7ad97e94861576b918b6fb3135a911ec8c3c00f81aa15"


def test_boxes_are_tight_around_what_is_visible_of_each_garment():
    scenes = compose(garments(), "train", range(400), 96)
    wanted, alone = wanted_in(draws("train", range(400))), 0
    for i in range(400):
        boxes, labels = scenes.boxes.of(i)
        mask = scenes.masks.classes[i]
        assert set(labels.tolist()) <= set(mask.unique().tolist())
        assert (boxes[:, 2:] - boxes[:, :2] >= THINNEST).all()
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        if wanted[i] == 1 and len(labels):
            rows, columns = torch.where(mask > 0)
            assert boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert mask[mask > 0].unique().tolist() == labels.tolist()
            alone += 1
    assert alone > 50


def test_empty_and_crowded_scenes_are_there_and_what_is_mostly_hidden_is_not_asked_for():
    scenes = compose(garments(), "train", range(1000), 64)
    counts = (scenes.boxes.labels > 0).sum(1)
    shares = counts.bincount(minlength=OBJECTS + 1) / 1000
    assert 0.01 < shares[0] < 0.1
    assert shares[OBJECTS] > 0.03
    hidden = 0
    for i in range(1000):  # classes that are seen, and not asked for
        seen = set(scenes.masks.classes[i].unique().tolist()) - {0}
        hidden += bool(seen - set(scenes.boxes.labels[i].tolist()))
    assert hidden > 5
    assert HIDDEN > 0.2
    assert (scenes.boxes.boxes[scenes.boxes.labels == 0] == 0).all()
    assert ((scenes.boxes.labels > 0).int().diff(dim=1) <= 0).all()  # padding comes last


def data_of(task: str, monkeypatch, **settings) -> ScenesData:
    """Train garments are bright, test garments dim."""
    train, test = (
        Images(torch.from_numpy(one.pixels).unsqueeze(1), torch.from_numpy(one.labels))
        for one in (garments(40, 250), garments(40, 60))
    )
    monkeypatch.setattr(ScenesData, "read", lambda self: (train, test))
    monkeypatch.setattr("mnet.data.scenes.VAL_SIZE", 10)
    monkeypatch.setattr(ScenesData, "train_size", 150)
    monkeypatch.setattr(ScenesData, "test_size", 40)
    data = ScenesData(task=task, val_size=30, batch_size=16, **settings)
    data.setup()
    return data


def test_garments_of_test_never_stand_in_scenes_of_train(monkeypatch):
    data = data_of("segmentation", monkeypatch, resolution=64)
    brightest = {}
    for split in ("train", "val", "test"):
        images, masks = data._splits[split]
        brightest[split] = int(images[:, 0][masks.classes > 0].max())
    assert brightest["test"] <= 60 < 150 < brightest["val"]
    assert brightest["train"] > 150


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_flip_moves_images_and_targets_together_and_twice_is_not_at_all(task, monkeypatch):
    data = data_of(task, monkeypatch, resolution=64)
    images, targets = data._splits["train"]
    every = torch.ones(len(images), dtype=torch.bool)
    twice = targets.mirrored(every, 64).mirrored(every, 64)
    assert all(torch.equal(one, other) for one, other in zip(twice, targets, strict=True))

    def batches(flip: bool) -> TargetBatches:
        settings = {"batch_size": 120, "mean": (0.0,), "std": (1 / 255,), "train": True, "seed": 3}
        return TargetBatches(images, targets, augment=Augment(flip=flip), **settings)

    (plain, still), (moved, along) = next(iter(batches(False))), next(iter(batches(True)))
    flipped = (plain != moved).flatten(1).any(1)
    assert 30 < flipped.sum() < 90
    assert torch.equal(torch.where(flipped.view(-1, 1, 1, 1), plain.flip(3), plain), moved)
    expected = still.mirrored(flipped, 64)
    assert all(torch.equal(one, other) for one, other in zip(expected, along, strict=True))


def test_what_scenes_tell_of_themselves(monkeypatch):
    assert (ScenesData.classes("detection"), ScenesData.classes("segmentation")) == (10, 11)
    data = data_of("segmentation", monkeypatch, resolution=32)
    assert data.label_names[:2] == ("background", "T-shirt/top")
    images, masks = next(iter(data.test_dataloader()))
    assert (images.shape, masks.classes.dtype) == ((16, 1, 32, 32), torch.uint8)
    for settings, said in (({"resolution": 31}, "32 pixels"), ({"task": "classification"}, "one of detection")):
        with pytest.raises(ConfigError, match=said):
            ScenesData(val_size=30, **settings)


def test_padding_and_unpadding_are_inverse_without_any_object_too():
    objects = [(torch.rand(n, 4), torch.arange(1, n + 1)) for n in (2, 0, 3)]
    padded = pad_boxes(objects)
    assert padded.boxes.shape == (3, 3, 4)
    for i, (boxes, labels) in enumerate(objects):
        found = padded.of(i)
        assert torch.equal(found[0], boxes)
        assert torch.equal(found[1], labels)
    assert pad_boxes([(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2).boxes.shape == (2, 0, 4)
    assert isinstance(padded.select(slice(0, 2)), Boxes)
    assert isinstance(Masks(torch.zeros(2, 4, 4)).select(torch.tensor([1])), Masks)

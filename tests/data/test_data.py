from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from mnet.data import DATASETS, Augment, ImageFolder, ImageNet, Imagenette, create_data
from mnet.data.cifar import CIFARSettings
from mnet.data.splits import stratified_split
from mnet.errors import ConfigError, DataError


def image(path: Path, *, colour: bool = True, size: tuple[int, int] = (40, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)).save(path)


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5, *, colour: bool = True) -> Path:
    for number, name in enumerate(classes):
        for index in range(count):
            image(root / name / f"{index}.png", colour=colour, seed=100 * number + index)
    return root


# --- names and settings


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_created_by_name_without_reading_files(name: str, tmp_path: Path) -> None:
    data = create_data(name, data_dir=tmp_path / "none", batch_size=4, seed=3)
    assert data.name == name
    assert data.resolution > 0
    assert data.named_by_files or data.class_names
    with pytest.raises(DataError, match="none"):
        data.setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "fashion-mnist"}, "Did you mean fashion_mnist"),
        ({"name": "cifar10", "batchsize": 3}, "Did you mean batch_size"),
        ({"name": "cifar10", "batch_size": 0}, "batch_size is 0"),
        ({"name": "cifar10", "resolution": 0}, "resolution is 0"),
        ({"name": "cifar10", "val_size": 50_000}, "at most 49999"),
        ({"name": "cifar10", "val_size": 0}, "val_size is 0"),
        ({"name": "cifar10", "seed": -1}, "seed is -1"),
        ({"name": "imagenette", "size": "320"}, "Did you mean 320px"),
        ({"name": "photographs"}, "now dataset=imagefolder"),
        ({"name": "imagefolder", "storage": "ram"}, "unknown storage 'ram'"),
        ({"name": "cifar10", "resolution": "large"}, "resolution must be a whole number, not 'large'"),
        ({"name": "scenes", "augment": "flip"}, "augment must be"),
    ],
)
def test_an_invalid_setting_raises_before_files_are_read(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_data(**settings)  # type: ignore[arg-type]


def test_settings_are_read_from_text_and_defaults_differ_by_data_set() -> None:
    data = create_data("cifar10", batch_size="64", resolution="null", download="true")
    assert data.settings == CIFARSettings(batch_size=64, download=True)
    settings = {name: data.settings_type() for name, data in DATASETS.items()}
    defaults = {name: (default.batch_size, default.val_size) for name, default in settings.items()}
    assert defaults["fashion_mnist"] == defaults["imagefolder"] == (128, 5000)
    assert defaults["imagenet"] == (128, 1000)
    assert (defaults["coco"], defaults["scenes"]) == ((32, 200), (32, 500))


def test_a_copy_for_another_run_shares_the_images_and_changes_order_and_augmentation(tmp_path: Path) -> None:
    data = create_data("imagefolder", data_dir=folder(tmp_path, count=9), resolution=8, batch_size=2)
    data.prepare_data()
    data.setup()
    copy = data.for_run(3, 7, Augment(flip=False))
    assert (copy.settings.batch_size, copy.settings.seed, data.settings.batch_size, data.settings.seed) == (3, 7, 2, 0)
    loaders = [one.train_dataloader() for one in (data, copy, copy.for_run(3, 7))]
    default = ImageFolder.flip_crop
    assert [loader.augment for loader in loaders] == [default, None, default]  # None = no augmentation
    assert copy._splits["train"].images is data._splits["train"].images


def test_the_split_is_fixed_stratified_and_has_the_exact_size() -> None:
    labels = torch.arange(1000) % 7
    train, val = stratified_split(labels, 100)
    assert torch.cat([train, val]).sort().values.equal(torch.arange(1000))
    assert set(labels[val].bincount().tolist()) == {14, 15}
    assert val.equal(stratified_split(labels, 100)[1])
    assert val[:5].tolist() != list(range(5))
    with pytest.raises(ConfigError, match="at most 999"):
        stratified_split(labels, 1000)


# --- CIFAR


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_from_its_published_layout(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    source = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
    root = tmp_path / source.base_folder
    root.mkdir()
    random = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    for part, _ in source.train_list + source.test_list:
        stored[part] = random.integers(256, size=(20, 3072), dtype=np.uint8)
        entry = {"data": stored[part], "labels" if classes == 10 else "fine_labels": list(range(10)) * 2}
        (root / part).write_bytes(pickle.dumps(entry))
    (root / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: [str(i) for i in range(classes)]}))
    data = create_data(name, data_dir=tmp_path, val_size=10)
    data.prepare_data()
    data.setup()
    assert len(data.class_names) == data.num_classes == classes
    images, labels = next(iter(data.test_dataloader()))
    raw = torch.from_numpy(stored[source.test_list[0][0]]).view(20, 3, 32, 32) / 255
    expected = (raw - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == list(range(10)) * 2
    (root / source.train_list[-1][0]).unlink()
    with pytest.raises(DataError, match=f"lacks {source.train_list[-1][0]}.*cs.toronto.edu"):
        data.prepare_data()


# --- folders of images


def test_two_classes_of_five_images_are_enough(tmp_path: Path) -> None:
    data = ImageFolder(data_dir=folder(tmp_path), resolution=16, batch_size=128)
    data.prepare_data()
    data.setup()
    assert (data.num_classes, data.in_channels, data.class_names) == (2, 3, ("cat", "dog"))
    (batch,) = data.train_dataloader()
    assert batch[0].shape[1:] == (3, 16, 16)
    held_out = [
        set(labels.tolist()) for loader in (data.val_dataloader(), data.test_dataloader()) for _, labels in loader
    ]
    assert held_out == [{0, 1}, {0, 1}]
    parts = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert sum(len(labels) for part in parts for _, labels in part) == 10


def test_grey_images_have_one_channel_and_one_colour_image_makes_three(tmp_path: Path) -> None:
    def channels() -> int:
        data = ImageFolder(data_dir=tmp_path, resolution=8)
        data.setup()
        assert next(iter(data.test_dataloader()))[0].shape[1] == data.in_channels == len(data.mean)
        return data.in_channels

    folder(tmp_path, colour=False)
    assert channels() == 1
    image(tmp_path / "cat" / "coloured.png")
    assert channels() == 3


def test_adding_an_image_moves_no_other(tmp_path: Path) -> None:
    def splits(count: int) -> dict[tuple[str, str], str]:
        data = ImageFolder(data_dir=folder(tmp_path, count=count), resolution=4)
        data.setup()
        train, test = data.listing.train, data.listing.test
        _, held_out = data.split(torch.tensor([label for _, label in train]))
        val = {train[index][0] for index in held_out.tolist()}
        parts = {path: "val" if path in val else "train" for path, _ in train}
        parts |= {path: "test" for path, _ in test}
        return {(path.parent.name, path.name): part for path, part in parts.items()}

    few, many = splits(60), splits(80)
    assert all(many[name] == part for name, part in few.items())
    assert {"train", "val", "test"} == set(few.values())


def test_train_and_test_folders_are_used_unchanged(tmp_path: Path) -> None:
    folder(tmp_path / "train", count=6)
    folder(tmp_path / "test", count=2)
    data = ImageFolder(data_dir=tmp_path, resolution=8)
    data.setup()
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 4
    folder(tmp_path / "train", ("bird",), count=3)
    with pytest.raises(DataError, match=r"'bird' is in .*train only"):
        ImageFolder(data_dir=tmp_path).prepare_data()
    folder(tmp_path / "test", ("bird", "fish"), count=3)
    with pytest.raises(DataError, match=r"'fish' is in .*test only"):
        ImageFolder(data_dir=tmp_path).prepare_data()


def test_errors_name_invalid_folders_and_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 folders"):
        ImageFolder(data_dir=tmp_path).prepare_data()
    folder(tmp_path, ("cat",))
    with pytest.raises(DataError, match="1 folders"):
        ImageFolder(data_dir=tmp_path).prepare_data()
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog has no image"):
        ImageFolder(data_dir=tmp_path).prepare_data()
    folder(tmp_path, ("dog",))
    broken = tmp_path / "dog" / "3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"dog/3.png cannot be read"):
        ImageFolder(data_dir=tmp_path, resolution=8).setup()


# --- published files


@pytest.fixture(scope="module")
def imagenette(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 1)):
        for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            for index in range(count):
                image(root / "imagenette2-160" / split / wnid / f"{index}.JPEG", seed=index)
    return root


def test_imagenette_has_fixed_splits_and_channels_last_batches(imagenette: Path) -> None:
    data = Imagenette(data_dir=imagenette, resolution=16, batch_size=7, val_size=10)
    data.setup()
    sizes = [
        sum(len(y) for _, y in part)
        for part in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    ]
    assert sizes == [28, 10, 10]
    images, _ = next(iter(data.val_dataloader()))
    assert images.shape == (7, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.cat([y for _, y in data.val_dataloader()]).tolist() == list(range(10))
    names = [names[0] for names in torchvision.datasets.Imagenette._WNID_TO_CLASS.values()]
    assert list(data.class_names) == names


def test_an_incomplete_imagenette_raises(imagenette: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagenette2-160/train is missing.*imagenette2-160.tgz"):
        Imagenette(data_dir=tmp_path).prepare_data()
    for split in ("train", "val"):
        folder(tmp_path / "imagenette2-160" / split)
    with pytest.raises(DataError, match="2 class folders, imagenette has 10"):
        Imagenette(data_dir=tmp_path).setup()


def test_imagenet_is_read_from_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "imagenet"
    for split in ("train", "val"):
        folder(root / split, ("n01", "n02"))
    torch.save(({"n01": ("tench", "x"), "n02": ("goldfish",)}, ["n01"]), root / "meta.bin")
    monkeypatch.setattr(ImageNet, "num_classes", 2)
    data = ImageNet(data_dir=tmp_path, resolution=8, val_size=4)
    data.prepare_data()
    data.setup()
    assert data.class_names == ("tench", "goldfish")
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 10

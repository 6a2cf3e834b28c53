from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from mnet.data import DATASETS, Augment, ImageFolder, ImageNet, Imagenette, create_data, imagefolder
from mnet.data.cifar import CIFARSettings
from mnet.data.decoding import CentreCrop, RandomCrop, open_lazily
from mnet.data.splits import stratified_split
from mnet.data.streams import StreamLoader
from mnet.errors import ConfigError, DataError
from mnet.studies.trial import USER_DATASETS


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
        ({"name": "imagenet", "workers": -1}, "workers is -1"),
        ({"name": "cifar10", "resolution": "large"}, "resolution must be a whole number, not 'large'"),
        ({"name": "scenes", "augment": "flip"}, "augment must be"),
    ],
)
def test_an_invalid_setting_raises_before_files_are_read(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_data(**settings)  # type: ignore[arg-type]


def test_importing_mnet_does_not_import_lightning() -> None:
    code = "import mnet, sys; assert 'lightning' not in sys.modules and 'mnet.data' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_read_from_text_and_defaults_differ_by_data_set() -> None:
    data = create_data("cifar10", batch_size="64", resolution="null", download="true")
    assert data.settings == CIFARSettings(batch_size=64, download=True)
    settings = {name: data.settings_type() for name, data in DATASETS.items()}
    defaults = {name: (default.batch_size, default.val_size) for name, default in settings.items()}
    assert defaults["fashion_mnist"] == defaults["imagefolder"] == (128, 5000)
    assert defaults["imagenet"] == defaults["photographs"] == (128, 1000)
    assert (defaults["coco"], defaults["scenes"]) == ((32, 200), (32, 500))


def test_a_copy_for_another_run_shares_the_images_and_changes_order_and_augmentation(tmp_path: Path) -> None:
    data = create_data("imagefolder", data_dir=folder(tmp_path, count=9), resolution=8, batch_size=2)
    data.prepare_data()
    data.setup()
    copy = data.for_run(3, 7, Augment(flip=False))
    assert (copy.settings.batch_size, copy.settings.seed, data.settings.batch_size, data.settings.seed) == (3, 7, 2, 0)
    loaders = [one.train_dataloader() for one in (data, copy, copy.for_run(3, 7))]
    default = ImageFolder.default_augment
    assert [loader.augment for loader in loaders] == [default, None, default]  # None changes nothing
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


def test_errors_name_invalid_folders_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(imagefolder, "MEMORY_LIMIT_BYTES", 10 * 3 * 50**2)
    with pytest.raises(DataError, match="resolution 50 would fit"):
        ImageFolder(data_dir=tmp_path, resolution=51).setup()


# --- streams


@pytest.fixture(scope="module")
def imagenette(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 1)):
        for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            for index in range(count):
                image(root / "imagenette2-160" / split / wnid / f"{index}.JPEG", seed=index)
    return root


def stream(root: Path, workers: int, seed: int = 0) -> StreamLoader:
    data = Imagenette(data_dir=root, resolution=16, batch_size=7, val_size=10, workers=workers, seed=seed)
    data.prepare_data()
    data.setup()
    return data.train_dataloader()


def test_imagenette_has_fixed_splits_and_channels_last_batches(imagenette: Path) -> None:
    data = Imagenette(data_dir=imagenette, resolution=16, batch_size=7, val_size=10, workers=0)
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


def test_a_stream_is_the_same_for_any_number_of_workers_and_resumes_in_mid_epoch(imagenette: Path) -> None:
    serial, parallel = stream(imagenette, 0), stream(imagenette, 2)
    epochs = []
    for epoch in (0, 1):
        for loader in (serial, parallel):
            loader.set_epoch(epoch)
        epochs.append(list(serial))
        for (images, labels), (parallel_images, parallel_labels) in zip(epochs[-1], parallel, strict=True):
            assert images.equal(parallel_images)
            assert labels.equal(parallel_labels)
    assert not epochs[0][0][0].equal(epochs[1][0][0])
    serial.load_state_dict({"epoch": 1, "position": 2})
    rest = list(serial)
    assert len(rest) == 2
    assert all(images.equal(expected) for (images, _), (expected, _) in zip(rest, epochs[1][2:], strict=True))
    assert serial.state_dict() == {"epoch": 1, "position": 4}


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
    data = ImageNet(data_dir=tmp_path, resolution=8, val_size=4, workers=0)
    data.prepare_data()
    data.setup()
    assert data.class_names == ("tench", "goldfish")
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 10


# --- photographs


def photograph(path: Path, size: tuple[int, int], quality: int = 95) -> Image.Image:
    """A smooth JPEG, which loses little detail at a reduced size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(9 * x + 5 * y)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=quality)
    return Image.open(path)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (50, 40)])
def test_photographs_are_cropped_and_scaled_as_by_torchvision(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "one.jpg"
    photograph(path, size)
    reference = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor()])
    expected = reference(Image.open(path).convert("RGB")).permute(1, 2, 0).float()
    pixels = CentreCrop(224)(open_lazily(path))
    assert pixels.dtype == torch.uint8
    assert (pixels.float() - expected).abs().mean() < 1.5
    crop = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.PILToTensor()])
    for seed in range(4):
        torch.manual_seed(seed)
        expected = crop(Image.open(path).convert("RGB")).permute(1, 2, 0).float()
        torch.manual_seed(seed)
        pixels = RandomCrop(224)(open_lazily(path)).float()
        assert min((image - expected).abs().mean() for image in (pixels, pixels.flip(1))) < 1.5


def test_a_large_photograph_is_decoded_at_a_reduced_size(tmp_path: Path) -> None:
    photograph(tmp_path / "one.jpg", (2400, 1800))
    opened = open_lazily(tmp_path / "one.jpg")
    CentreCrop(224)(opened)
    assert opened.size == (600, 450)  # an eighth would be smaller than the crop needs


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    upright = photograph(tmp_path / "one.jpg", (300, 300))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    pixels, expected = (CentreCrop(64)(open_lazily(tmp_path / f"{name}.jpg")) for name in ("turned", "one"))
    assert (pixels.float() - expected.float()).abs().mean() < 2


def test_photographs_are_split_as_in_memory_and_resume_in_mid_epoch(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        for index in range(20):
            photograph(tmp_path / name / f"{index}.jpg", (60 + index, 50 + number))
    memory = create_data("imagefolder", data_dir=tmp_path, resolution=32, batch_size=6)
    stream = create_data("photographs", data_dir=tmp_path, resolution=32, batch_size=6, workers=2)
    for data in (memory, stream):
        data.prepare_data()
        data.setup()
    assert stream.class_names == memory.class_names == ("cat", "dog")
    for split in ("val_dataloader", "test_dataloader"):
        expected, labels = (torch.cat([y for _, y in getattr(data, split)()]) for data in (memory, stream))
        assert expected.tolist() == labels.tolist()
    whole, resumed = stream.train_dataloader(), stream.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "position": 2})
    for (images, labels), (resumed_images, resumed_labels) in zip(list(whole)[2:], resumed, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.equal(resumed_images)
        assert labels.equal(resumed_labels)


def test_the_error_names_a_damaged_photograph(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for index in range(4):
            photograph(tmp_path / name / f"{index}.jpg", (60, 50))
    broken = tmp_path / "cat/1.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    data = create_data("photographs", data_dir=tmp_path, resolution=32, batch_size=2, workers=0)
    data.prepare_data()
    data.setup()
    with pytest.raises(DataError, match=r"cat/1.jpg cannot be read as an image"):
        for part in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            list(part)


def test_data_sets_of_a_users_own_images_have_no_published_size() -> None:
    assert {name for name, data in DATASETS.items() if data.train_size is None} == set(USER_DATASETS)

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

from mnet.data import DATASETS, ImageFolder, ImageNet, Imagenette, create_data, folders
from mnet.data.module import stratified_split
from mnet.data.photographs import CentreCrop, RandomCrop, open_photograph
from mnet.data.streams import Stream
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
def test_every_data_set_is_created_by_its_name_and_touches_no_file(name: str, tmp_path: Path) -> None:
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
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_read(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_data(**settings)  # type: ignore[arg-type]


def test_importing_mnet_does_not_import_lightning() -> None:
    code = "import mnet, sys; assert 'lightning' not in sys.modules and 'mnet.data' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_split_is_fixed_stratified_and_exactly_as_large_as_asked() -> None:
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


def test_two_classes_of_five_images_are_a_data_set(tmp_path: Path) -> None:
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


def test_grey_images_give_one_channel_and_a_single_coloured_one_gives_three(tmp_path: Path) -> None:
    def channels() -> int:
        data = ImageFolder(data_dir=tmp_path, resolution=8)
        data.setup()
        assert next(iter(data.test_dataloader()))[0].shape[1] == data.in_channels == len(data.mean)
        return data.in_channels

    folder(tmp_path, colour=False)
    assert channels() == 1
    image(tmp_path / "cat" / "coloured.png")
    assert channels() == 3


def test_adding_a_image_moves_no_other(tmp_path: Path) -> None:
    def places(count: int) -> dict[tuple[str, str], str]:
        data = ImageFolder(data_dir=folder(tmp_path, count=count), resolution=4)
        data.setup()
        _, held_out = data.split(torch.tensor([label for _, label in data._train]))
        val = {data._train[index][0] for index in held_out.tolist()}
        parts = {path: "val" if path in val else "train" for path, _ in data._train}
        parts |= {path: "test" for path, _ in data._test}
        return {(path.parent.name, path.name): part for path, part in parts.items()}

    few, many = places(60), places(80)
    assert all(many[name] == part for name, part in few.items())
    assert {"train", "val", "test"} == set(few.values())


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
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


def test_bad_folders_and_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(folders, "MEMORY_LIMIT_BYTES", 10 * 3 * 50**2)
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


def stream(root: Path, workers: int, seed: int = 0) -> Stream:
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
    alone, shared = stream(imagenette, 0), stream(imagenette, 2)
    epochs = []
    for epoch in (0, 1):
        for loader in (alone, shared):
            loader.set_epoch(epoch)
        epochs.append(list(alone))
        for (images, labels), (same, also) in zip(epochs[-1], shared, strict=True):
            assert images.equal(same)
            assert labels.equal(also)
    assert not epochs[0][0][0].equal(epochs[1][0][0])
    alone.load_state_dict({"epoch": 1, "position": 2})
    rest = list(alone)
    assert len(rest) == 2
    assert all(images.equal(expected) for (images, _), (expected, _) in zip(rest, epochs[1][2:], strict=True))
    assert alone.state_dict() == {"epoch": 1, "position": 4}


def test_an_incomplete_imagenette_is_refused(imagenette: Path, tmp_path: Path) -> None:
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
    """A smooth JPEG, of which little is lost at a reduced size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(9 * x + 5 * y)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=quality)
    return Image.open(path)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (50, 40)])
def test_a_photograph_is_cropped_and_scaled_as_torchvision_would(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "one.jpg"
    photograph(path, size)
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor()])
    expected = theirs(Image.open(path).convert("RGB")).permute(1, 2, 0).float()
    found = CentreCrop(224)(open_photograph(path))
    assert found.dtype == torch.uint8
    assert (found.float() - expected).abs().mean() < 1.5
    crop = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.PILToTensor()])
    for seed in range(4):
        torch.manual_seed(seed)
        expected = crop(Image.open(path).convert("RGB")).permute(1, 2, 0).float()
        torch.manual_seed(seed)
        found = RandomCrop(224)(open_photograph(path)).float()
        assert min((one - expected).abs().mean() for one in (found, found.flip(1))) < 1.5


def test_a_large_photograph_is_decoded_at_a_reduced_size(tmp_path: Path) -> None:
    photograph(tmp_path / "one.jpg", (2400, 1800))
    opened = open_photograph(tmp_path / "one.jpg")
    CentreCrop(224)(opened)
    assert opened.size == (600, 450)  # an eighth would be smaller than what is wanted


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    upright = photograph(tmp_path / "one.jpg", (300, 300))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned back
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    found, expected = (CentreCrop(64)(open_photograph(tmp_path / f"{name}.jpg")) for name in ("turned", "one"))
    assert (found.float() - expected.float()).abs().mean() < 2


def test_photographs_are_found_and_split_as_in_memory_and_resume_in_mid_epoch(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        for index in range(20):
            photograph(tmp_path / name / f"{index}.jpg", (60 + index, 50 + number))
    memory, stream = (
        create_data(name, data_dir=tmp_path, resolution=32, batch_size=6) for name in ("imagefolder", "photographs")
    )
    for data in (memory, stream):
        data.prepare_data()
        data.setup()
    stream.workers = 2
    assert stream.class_names == memory.class_names == ("cat", "dog")
    for split in ("val_dataloader", "test_dataloader"):
        known, found = (torch.cat([y for _, y in getattr(data, split)()]) for data in (memory, stream))
        assert known.tolist() == found.tolist()
    whole, again = stream.train_dataloader(), stream.train_dataloader()
    again.load_state_dict({"epoch": 0, "position": 2})
    for (images, labels), (same, also) in zip(list(whole)[2:], again, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.equal(same)
        assert labels.equal(also)


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
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


def test_what_is_ones_own_is_known_by_its_name() -> None:
    assert {name for name, data in DATASETS.items() if data.train_size is None} == set(USER_DATASETS)

"""Images that are decoded once, to the same bits in memory and on disk: how a store is built, resumed and refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from mnet.data import ImageFolder, create_data, image_files, store, store_build
from mnet.data.augment import RESIZED_CROP, Augment
from mnet.data.crops import draw_crops, scale_crops, scale_together
from mnet.data.fitting import read_pixels, read_size
from mnet.data.store import ImageStore
from mnet.data.store_build import Build, Layout
from mnet.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photograph(path: Path, size: tuple[int, int], quality: int = 95) -> Image.Image:
    """A smooth JPEG, which loses little detail at a reduced size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * y, 127 + 120 * np.sin(9 * x + 5 * y)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=quality)
    return Image.open(path)


def folder(root: Path, count: int = 12) -> Path:
    for number, name in enumerate(("cat", "dog")):
        for index in range(count):
            photograph(root / name / f"{index}.jpg", (40 + 3 * index, 50 + number))
    return root


def grey_folder(root: Path) -> Path:
    for name in ("cat", "dog"):
        for index in range(6):
            (root / name).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(index).integers(256, size=(30, 40), dtype=np.uint8)
            Image.fromarray(values).save(root / name / f"{index}.png")
    return root


def data(root: Path, **settings: object) -> ImageFolder:
    images = create_data("imagefolder", **{"data_dir": root, "resolution": 24, "batch_size": 4, **settings})
    images.setup()
    assert isinstance(images, ImageFolder)
    return images


def batches(images: ImageFolder) -> list[torch.Tensor]:
    loaders = images.train_dataloader(), images.val_dataloader(), images.test_dataloader()
    return [values for loader in loaders for batch in loader for values in batch]


@pytest.mark.parametrize("make", [folder, grey_folder])
@pytest.mark.parametrize("augment", [Augment(flip=True, pad=2), RESIZED_CROP])
def test_memory_and_disk_give_the_same_bits_also_in_another_process(
    tmp_path: Path, make: Callable[[Path], Path], augment: Augment
) -> None:
    root = make(tmp_path / "images")
    memory, disk = (data(root, storage=storage, augment=augment) for storage in ("memory", "disk"))
    assert (memory.mean, memory.std, memory.in_channels) == (disk.mean, disk.std, disk.in_channels)
    expected = batches(memory)
    disk.share()
    sent = pickle.dumps(disk)
    assert len(sent) < 20_000  # the path, not the pixels
    for images in (disk, pickle.loads(sent)):
        assert all(ours.equal(theirs) for ours, theirs in zip(expected, batches(images), strict=True))


def test_training_continues_in_mid_epoch(tmp_path: Path) -> None:
    images = data(folder(tmp_path), augment=RESIZED_CROP)
    whole, resumed = images.train_dataloader(), images.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "position": 2})
    for (pixels, labels), (again, same) in zip(list(whole)[2:], resumed, strict=True):
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert pixels.equal(again)
        assert labels.equal(same)


def test_a_store_is_built_once_and_continues_where_it_was_stopped(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "images")
    expected = batches(data(root, storage="memory"))
    monkeypatch.setattr(store_build, "FLUSHED", 4)
    decoded: list[Path] = []

    def read(path: Path, *arguments: object, **options: object) -> np.ndarray:
        decoded.append(path)
        if path.name == "9.jpg" and path.parent.name == "dog" and len(decoded) < 30:
            raise KeyboardInterrupt
        return read_pixels(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "read_pixels", read)
    with pytest.raises(KeyboardInterrupt):
        data(root, storage="disk")
    (partial,) = cache.glob("images/*.partial")
    kept = (partial / store.SIZES).stat().st_size // 8
    assert 0 < kept < 24
    with (partial / store.PIXELS).open("ab") as file:
        file.write(b"half an image")  # what a kill leaves
    decoded.extend([tmp_path] * 30)
    del decoded[30:]
    count = len(decoded)
    again = data(root, storage="disk")
    assert len(decoded) - count == 24 - kept
    assert all(ours.equal(theirs) for ours, theirs in zip(expected, batches(again), strict=True))
    count = len(decoded)
    data(root, storage="disk")
    assert len(decoded) == count
    photograph(root / "cat/0.jpg", (70, 70))  # a changed image needs a new store
    data(root, storage="disk")
    assert len(decoded) == count + 24


def test_too_small_a_disk_is_reported_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path)
    monkeypatch.setattr(store_build.shutil, "disk_usage", lambda path: shutil_usage(free=24 * 3 * 20**2))
    monkeypatch.setattr(image_files, "read_pixels", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"24 images of 24 pixels take .* MNET_CACHE, .* at most 19"):
        data(root, storage="disk")


def shutil_usage(free: int) -> object:
    return type("usage", (), {"free": free})()


def test_without_room_in_memory_images_go_to_disk(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_build, "free_shared_memory", lambda: 64 * 2**20)
    data(folder(tmp_path / "images"))
    assert not (cache / "images").exists()
    monkeypatch.setattr(store_build, "free_shared_memory", lambda: 1000)
    data(tmp_path / "images")
    assert (cache / "images").exists()


@pytest.mark.parametrize("storage", ["memory", "disk"])
@pytest.mark.parametrize("augment", [None, RESIZED_CROP])
def test_an_unreadable_image_is_named_or_left_out_and_counted(
    tmp_path: Path, storage: str, augment: Augment | None
) -> None:
    root = folder(tmp_path / "images")
    broken = root / "cat/1.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(DataError, match=r"cat/1.jpg cannot be read as an image"):
        data(root, storage=storage, augment=augment)
    images = data(root, storage=storage, augment=augment, skip_unreadable=True)
    assert "1 file left out: 1 unreadable" in str(images.listing)
    broken.unlink()
    without = data(root, storage=storage, augment=augment)
    assert all(ours.equal(theirs) for ours, theirs in zip(batches(without), batches(images), strict=True))


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (50, 40)])
def test_images_are_scaled_and_cropped_as_by_torchvision(tmp_path: Path, size: tuple[int, int]) -> None:
    opened = photograph(tmp_path / "one.jpg", size).convert("RGB")
    for share, steps in (
        (224 / 256, [v2.Resize(256), v2.CenterCrop(224)]),
        (1.0, [v2.Resize(224), v2.CenterCrop(224)]),
    ):
        expected = v2.Compose([*steps, v2.PILToTensor()])(opened).permute(1, 2, 0).numpy().astype(float)
        pixels = read_pixels(tmp_path / "one.jpg", 224, crop_share=share)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - expected).mean() < 1.5
    whole = read_pixels(tmp_path / "one.jpg", 256, whole=True)
    expected = v2.Compose([v2.Resize(256), v2.PILToTensor()])(opened).permute(1, 2, 0).numpy().astype(float)
    assert np.abs(whole - expected).mean() < 1.5


def test_a_large_photograph_is_decoded_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(tmp_path / "one.jpg", (2400, 1800))
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *rest: sizes.append(self.size) or resize(self, *rest))
    read_pixels(tmp_path / "one.jpg", 224)
    assert sizes == [(300, 225)]


def test_turned_images_are_upright_and_keep_their_shape(tmp_path: Path) -> None:
    upright = photograph(tmp_path / "one.jpg", (300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to view
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    for whole in (False, True):
        one, turned = (read_pixels(tmp_path / f"{name}.jpg", 64, whole=whole) for name in ("one", "turned"))
        assert one.shape == turned.shape
        assert np.abs(one.astype(float) - turned).mean() < 2


def test_random_crops_are_distributed_as_torchvisions() -> None:
    count = 4000
    sizes = torch.tensor([[60, 80]]).repeat(count, 1)
    ours = draw_crops(sizes, torch.Generator().manual_seed(0)).double()
    torch.manual_seed(0)
    transform = torchvision.transforms.RandomResizedCrop
    image = torch.zeros(3, 60, 80)
    theirs = torch.tensor([transform.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]).double()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 60).all()
    assert (ours[:, 1] + ours[:, 3] <= 80).all()
    error = (ours.var(0) / count + theirs.var(0) / count).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.05).all()
    thin = draw_crops(torch.tensor([[10, 1000]]), torch.Generator().manual_seed(0))
    assert thin.shape == (1, 4)
    assert thin[0, 2] <= 10


def test_crops_are_the_same_one_by_one_and_together(tmp_path: Path) -> None:
    """On a GPU all crops are scaled in one call."""
    paths = [tmp_path / f"{size[0]}.jpg" for size in ((90, 70), (60, 100), (80, 80))]
    for path in paths:
        photograph(path, (int(path.stem), 70))
    images = Build(
        items=paths,
        read=lambda path: read_pixels(path, 70, whole=True),
        size_of=read_size,
        layout=Layout(70, whole=True),
        key=str,
        storage="memory",
    ).make()
    crops = draw_crops(images.sizes, torch.Generator().manual_seed(1))
    parts = [images[i] for i in range(3)]
    mirrored = torch.tensor([True, False, True])
    one_by_one = scale_crops(parts, crops, 48, torch.device("cpu"), mirrored).float()
    cut = [
        part[top : top + height, left : left + width]
        for part, (top, left, height, width) in zip(parts, crops.tolist(), strict=True)
    ]
    together = scale_together([cut[0].flip(1), cut[1], cut[2].flip(1)], 48, torch.device("cpu"))
    assert (one_by_one - together).abs().mean() < 1


def test_a_store_knows_its_images() -> None:
    sizes = torch.tensor([[2, 3], [0, 0], [1, 2]])
    images = ImageStore(torch.arange(8, dtype=torch.uint8), sizes, 1)
    assert images[0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert images[1].numel() == 0
    assert images[2].flatten().tolist() == [6, 7]
    assert images.ranks().tolist() == [0, 0, 1]

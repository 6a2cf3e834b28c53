from __future__ import annotations

import gzip
import hashlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnet.data import download, fashion_mnist
from mnet.data.fashion_mnist import FashionMNIST, fetch
from mnet.errors import DataError

SIZES = {"train": 40, "t10k": 20}


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small idx files of random garments that are accepted as the published ones."""
    random = np.random.default_rng(0)
    contents = {}
    for part, count in SIZES.items():
        pixels = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = bytes(16) + pixels.tobytes()
        contents[f"{part}-labels-idx1-ubyte"] = bytes(8) + labels.tobytes()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(fashion_mnist, "SHA256", hashes)
    monkeypatch.setattr(fashion_mnist, "SOURCES", {"system copy": fashion_mnist._system_copy})
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", Path("/nowhere"))
    return contents


def write(folder: Path, files: dict[str, bytes], *, packed: bool) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def test_a_system_copy_is_unpacked_once_and_read(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", write(tmp_path / "system", files, packed=True))
    data = FashionMNIST(data_dir=tmp_path, val_size=10, batch_size=8)
    data.prepare_data()
    assert {path.name: path.read_bytes() for path in data.folder.iterdir()} == files
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", Path("/nowhere"))
    data.prepare_data()
    data.setup()
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (8, 1, 28, 28)
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 10
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 20


@pytest.mark.parametrize("packed", [True, False])
def test_files_in_the_data_folder_are_enough(tmp_path: Path, files: dict[str, bytes], packed: bool) -> None:
    folder = write(tmp_path / "FashionMNIST" / "raw", files, packed=packed)
    data = FashionMNIST(data_dir=tmp_path, val_size=10, resolution=32)
    data.prepare_data()
    data.setup()
    assert all((folder / name).read_bytes() == content for name, content in files.items())
    assert next(iter(data.test_dataloader()))[0].shape == (20, 1, 32, 32)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data[:60] + b"!" + data[61:]])
def test_a_damaged_file_is_named_and_never_replaced(
    tmp_path: Path, files: dict[str, bytes], packed: bool, damage: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", write(tmp_path / "system", files, packed=True))
    folder = write(tmp_path / "FashionMNIST" / "raw", files, packed=packed)
    path = folder / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*Delete it and run again"):
        FashionMNIST(data_dir=tmp_path).prepare_data()
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        FashionMNIST(data_dir=tmp_path).setup()
    assert path.read_bytes() == damaged


def test_only_the_missing_file_is_fetched(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", write(tmp_path / "system", files, packed=True))
    folder = write(tmp_path / "raw", files, packed=False)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    before = (folder / "train-images-idx3-ubyte").stat().st_mtime_ns
    fetch(folder)
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == files["t10k-labels-idx1-ubyte"]
    assert (folder / "train-images-idx3-ubyte").stat().st_mtime_ns == before


def test_if_all_sources_fail_the_error_lists_each_reason_and_the_remedy(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(temporary: Path) -> Path:
        raise OSError("network is\nunreachable")

    wrong = dict(files, **{"train-labels-idx1-ubyte": b"wrong"})
    mirror = write(tmp_path / "mirror", wrong, packed=True)
    sources = {**fashion_mnist.SOURCES, "download": offline, "mirror": lambda temporary: mirror}
    monkeypatch.setattr(fashion_mnist, "SOURCES", sources)
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "raw")
    message = str(caught.value)
    assert "  system copy: no folder /nowhere\n" in message
    assert "  download: network is unreachable\n" in message
    assert "train-labels-idx1-ubyte.gz is not the published file" in message
    assert "apt install dataset-fashion-mnist" in message
    assert not (tmp_path / "raw").exists()


def test_without_package_lists_apt_retries_with_private_ones(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def run(command: list[str], folder: Path) -> None:
        commands.append(" ".join(command))
        if "download" in command and len(commands) == 1:
            raise DataError("Unable to locate package")
        if "download" in command:
            (folder / "dataset.deb").touch()
        if command[0] == "dpkg":
            write(folder / "unpacked/usr/share/datasets/fashion-mnist", files, packed=True)

    monkeypatch.setattr(fashion_mnist, "run_program", run)
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda program: program)
    monkeypatch.setattr(fashion_mnist, "SOURCES", {"apt": fashion_mnist._debian_package})
    fetch(tmp_path / "raw")
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == files
    words = ("download", "update", "download", "-x")
    assert all(word in command for word, command in zip(words, commands, strict=True))
    assert "Dir::State::Lists" not in commands[0]
    assert "Dir::State::Lists" in commands[2]


def test_concurrent_fetches_leave_whole_files(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_COPY", write(tmp_path / "system", files, packed=True))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(tmp_path / "raw",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == files


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mnet.files.os.replace", full)
    with pytest.raises(DataError, match=r"cannot write .*file: disk full"):
        download.store(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())

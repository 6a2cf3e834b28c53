"""Fashion-MNIST: 60,000 + 10,000 grey images of 10 kinds of garment, 28x28, found locally or downloaded, and verified.

Source: Xiao, Rasul and Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision

from mnet.data.augment import Augment
from mnet.data.decoded import Images, InMemoryImages
from mnet.data.download import NETWORK_TIMEOUT_S, quiet_network, run_program, store
from mnet.errors import DataError
from mnet.files import MEGABYTE, read_limited

log = logging.getLogger(__name__)

SYSTEM_COPY = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package. Its archives differ from upstream's in compression only."""
PACKAGE = "dataset-fashion-mnist"

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Hashes of the unpacked files."""


class FashionMNIST(InMemoryImages):
    """Fashion-MNIST, which needs no preparation: see `fetch` for its sources."""

    name = "fashion_mnist"
    native_resolution = 28
    train_size = 60_000
    num_classes = 10
    in_channels = 1
    class_names = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    mean = (0.2860,)
    std = (0.3530,)
    flip_crop = Augment(flip=True, pad=2)

    @property
    def folder(self) -> Path:
        """The folder in torchvision's layout."""
        return self.data_dir / "FashionMNIST" / "raw"

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: A file in the data folder is corrupt, or no source has the files.
        """
        fetch(self.folder)

    def read(self) -> tuple[Images, Images]:
        return self._read("train"), self._read("t10k")

    def _read(self, part: str) -> Images:
        pixels = np.frombuffer(verified(self.folder, f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
        labels = np.frombuffer(verified(self.folder, f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
        images = torch.from_numpy(pixels.copy()).view(-1, 1, 28, 28)
        return Images(images, torch.from_numpy(labels.astype(np.int64)))


LARGEST = 64 * MEGABYTE
"""Limit in bytes of a file, packed or unpacked."""


def _find(folder: Path, name: str) -> Path | None:
    """The file in `folder`, unpacked or packed."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def verified(folder: Path, name: str) -> bytes:
    """The unpacked bytes of an idx file.

    Raises:
        DataError: Missing, truncated or not the published bytes.
    """
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name} is missing.")
    try:
        data = read_limited(path, LARGEST)
        if path.name != name:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(LARGEST)  # however much it would unpack to
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and run again.") from error
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise DataError(
            f"{path} is not the published file: {len(data):,} bytes unpacked, with a different sha256. "
            "Delete it and run again."
        )
    return data


def fetch(folder: Path) -> None:
    """Provide the four files in `folder`, unpacked and verified, from the first source that has them.

    Raises:
        DataError: A file already in `folder` is corrupt (it is never replaced), or every source failed.
    """
    for name in SHA256:
        if (path := _find(folder, name)) is not None:
            data = verified(folder, name)
            if path.name != name:
                store(folder / name, data)
    missing = [name for name in SHA256 if _find(folder, name) is None]
    if not missing:
        return
    failures: list[str] = []
    for source, provide in SOURCES.items():
        with tempfile.TemporaryDirectory(prefix="mnet-") as temporary:
            try:
                provided = provide(Path(temporary))
                contents = {name: verified(provided, name) for name in missing}
            except (DataError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                failures.append(f"  {source}: {' '.join(str(error).split())}")
                continue
        for name, data in contents.items():
            store(folder / name, data)
        log.info("Fashion-MNIST was copied from %s to %s", source, folder)
        return
    raise DataError(
        f"Fashion-MNIST is not in {folder} (missing: {', '.join(missing)}). Tried:\n"
        + "\n".join(failures)
        + f"\nPut the four files ({', '.join(SHA256)}; unpacked or .gz) into {folder}, from "
        "https://github.com/zalandoresearch/fashion-mnist, "
        f"or install Debian's package: apt install {PACKAGE}."
    )


def _system_copy(temporary: Path) -> Path:
    if not SYSTEM_COPY.is_dir():
        raise DataError(f"no folder {SYSTEM_COPY}")
    return SYSTEM_COPY


def _torchvision_download(temporary: Path) -> Path:
    with quiet_network():
        return Path(torchvision.datasets.FashionMNIST(temporary, download=True).raw_folder)


def _debian_package(temporary: Path) -> Path:
    """Needs no root: the package is unpacked, not installed."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise DataError(f"no {program} on this machine")
    lists, cache = temporary / "lists", temporary / "cache"
    (lists / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    timeouts = [f"-oAcquire::{scheme}::Timeout={NETWORK_TIMEOUT_S}" for scheme in ("http", "https")]
    apt = ["apt-get", "-qq", "-oAPT::Sandbox::User=root", "-oAcquire::Retries=0", *timeouts]
    private = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={cache}"]
    try:
        run_program([*apt, "download", PACKAGE], temporary)
    except DataError:  # no package lists, or outdated ones
        run_program([*apt, *private, "update"], temporary)
        run_program([*apt, *private, "download", PACKAGE], temporary)
    (archive,) = temporary.glob("*.deb")
    run_program(["dpkg", "-x", str(archive), "unpacked"], temporary)
    return temporary / "unpacked" / "usr/share/datasets/fashion-mnist"


SOURCES: dict[str, Callable[[Path], Path]] = {
    "system copy": _system_copy,
    "torchvision's download": _torchvision_download,
    f"Debian's package {PACKAGE} (apt-get download)": _debian_package,
}
"""Tried in this order. Each takes a temporary folder and returns the folder of the files."""

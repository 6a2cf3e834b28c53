"""Decode images into a store, in memory or on disk.

A store on disk is in the cache folder (`MNET_CACHE`), under a key of its images and layout. It is written in order, so
that a stopped build can resume, and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock

from mnet.data.decoding import UnreadableImage
from mnet.data.parallel import map_files
from mnet.data.store import (
    DESCRIPTION,
    PIXELS,
    SIZES,
    UNREADABLE,
    ImageStore,
    open_store,
    stored_sizes,
    stored_unreadable,
)
from mnet.errors import DataError
from mnet.files import write_json
from mnet.resources import Storage, cache_folder, free_memory, free_shared_memory

MEMORY_SHARE = 0.25
"""With `auto` storage, images are held in memory if they fit in this share of the free memory."""
DISK_SHARE = 0.95
"""Share of the free disk space that a store may take."""
SAMPLED = 256
"""Largest number of images whose sizes are read to estimate the size of a store."""
FLUSHED = 2048
"""Images per flush to disk; a stopped build resumes after the last flush."""
FORMAT = 1
"""Version of the format on disk, part of a store's key."""
PART = 3 * 2**24
NO_IMAGE = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Layout:
    """How images are scaled and cropped before they are stored."""

    side: int
    """Pixels of the shorter side."""
    whole: bool = False
    """Keep the whole image, at its aspect ratio; else a square from its middle."""
    crop_share: float = 1.0
    """Side of the square over the shorter side of the image."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """Builds a store, or opens it if it is already on disk."""

    items: Sequence[Any]
    """One item per image, such as its path."""
    read: Callable[[Any], np.ndarray]
    """Decodes an item as the layout says: (H, W, C) uint8."""
    size_of: Callable[[Any], tuple[int, int] | None]
    """Width and height of an item's image, without decoding it."""
    layout: Layout
    key: Callable[[], str]
    """Identifies the images by their contents; called only for a store on disk."""
    storage: Storage = "auto"
    skip_unreadable: bool = False
    """Leave out images that cannot be read; else the first of them raises."""
    channels: int | None = None
    """Channels that `read` returns; None = 3, of which 1 is kept if every image is grey."""

    def make(self) -> ImageStore:
        """
        Raises:
            DataError: An image cannot be read, or neither memory nor disk has room for all of them.
        """
        needed = self.estimate()
        if self.storage == "memory" or (self.storage == "auto" and _fits_in_memory(needed)):
            return self._in_memory()
        return self._on_disk(needed)

    def estimate(self) -> int:
        """Estimated bytes of the decoded images, from the sizes of some of them."""
        count, side, ratio = len(self.items), self.layout.side, 1.0
        if self.layout.whole:
            sizes = [self.size_of(item) for item in self.items[:: math.ceil(count / SAMPLED)]]
            ratios = [max(size) / min(size) for size in sizes if size is not None]
            ratio = sum(ratios) / len(ratios) if ratios else ratio
        return round((self.channels or 3) * side**2 * count * ratio)

    def _in_memory(self) -> ImageStore:
        pixels, sizes, grey, unreadable = bytearray(), [], self.channels is None, {}
        for index, decoded in self._decoded(0, f"decoding {len(self.items):,} images"):
            if isinstance(decoded, str):
                unreadable[index] = decoded
            image = NO_IMAGE if isinstance(decoded, str) else decoded
            grey = grey and _is_grey(image)
            pixels += image.data.cast("B") if image.size else b""
            sizes.append(image.shape[:2])
        values = torch.frombuffer(pixels, dtype=torch.uint8) if pixels else torch.empty(0, dtype=torch.uint8)
        if grey:
            values = values.view(-1, 3)[:, 0].clone()
        return ImageStore(values, torch.tensor(sizes).view(-1, 2), self._kept(grey=grey), unreadable)

    def _on_disk(self, needed: int) -> ImageStore:
        content = json.dumps([FORMAT, self.key(), asdict(self.layout), self.skip_unreadable, self.channels])
        folder = cache_folder() / "images" / hashlib.sha256(content.encode()).hexdigest()[:16]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # another process may be building the same
            if not (folder / DESCRIPTION).is_file():
                partial = folder.with_suffix(".partial")
                self._check_disk(partial, needed)
                self._write(partial, f"decoding {len(self.items):,} images to {_size(needed)} in {folder.parent}")
                os.replace(partial, folder)
        return open_store(folder)

    def _check_disk(self, partial: Path, needed: int) -> None:
        written = partial / PIXELS
        left = needed - (written.stat().st_size if written.is_file() else 0)
        free = shutil.disk_usage(partial.parent).free
        if left > DISK_SHARE * free:
            fits = max(1, int(self.layout.side * math.sqrt(DISK_SHARE * free / needed)))
            raise DataError(
                f"{len(self.items):,} images of {self.layout.side} pixels take {_size(needed)} on disk, and "
                f"{partial.parent} has {_size(free)} left. Name a folder on a larger disk in the environment variable "
                f"MNET_CACHE, or use a resolution of at most {fits}."
            )

    def _write(self, folder: Path, title: str) -> None:
        """Decode into a folder, resuming where an earlier build stopped."""
        folder.mkdir(exist_ok=True)
        sizes = stored_sizes(folder)
        unreadable = {index: why for index, why in stored_unreadable(folder).items() if index < len(sizes)}
        written = (self.channels or 3) * int(sizes.prod(1).sum())
        with _appended(folder / PIXELS, written) as pixels, _appended(folder / SIZES, 4 * sizes.numel()) as lengths:
            images_left = self._decoded(len(sizes), title)
            while batch := list(islice(images_left, FLUSHED)):
                unreadable |= {index: image for index, image in batch if isinstance(image, str)}
                images = [NO_IMAGE if isinstance(image, str) else image for _, image in batch]
                for image in images:
                    pixels.write(image.data)
                _flush(pixels)
                write_json(folder / UNREADABLE, unreadable)
                lengths.write(np.array([image.shape[:2] for image in images], np.int32).tobytes())  # now complete
                _flush(lengths)
        grey = self.channels is None and _all_grey(folder / PIXELS)
        if grey:
            _keep_first_channel(folder / PIXELS)
        write_json(
            folder / DESCRIPTION,
            {"format": FORMAT, "channels": self._kept(grey=grey), **asdict(self.layout)},
        )

    def _kept(self, *, grey: bool) -> int:
        """How many channels are kept."""
        return 1 if grey else self.channels or 3

    def _decoded(self, start: int, title: str) -> Iterator[tuple[int, np.ndarray | str]]:
        """Index and pixels (H, W, C) uint8 of the images from `start` on, in order; the reason if one is unreadable."""
        return enumerate(map_files(self._decode, self.items[start:], title, start), start)

    def _decode(self, item: Any) -> np.ndarray | str:
        try:
            return self.read(item)
        except UnreadableImage as error:
            if not self.skip_unreadable:
                raise
            return str(error)


def _fits_in_memory(needed: int) -> bool:
    shared = free_shared_memory()
    return needed < MEMORY_SHARE * free_memory() and (shared is None or 1.5 * needed < shared)


@contextmanager
def _appended(path: Path, length: int) -> Iterator[IO[bytes]]:
    """A file open for writing after its first `length` bytes; the rest is cut off."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(length)
        file.seek(length)
        yield file


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_grey(pixels: np.ndarray) -> bool:
    """Whether the last dimension, of 3, has equal values everywhere."""
    return bool((pixels == pixels[..., :1]).all())


def _parts(path: Path) -> Iterator[np.ndarray]:
    """The pixels of a file, (n, 3) uint8 each."""
    with path.open("rb") as file:
        while part := file.read(PART):
            yield np.frombuffer(part, np.uint8).reshape(-1, 3)


def _all_grey(path: Path) -> bool:
    return all(_is_grey(part) for part in _parts(path))


def _keep_first_channel(path: Path) -> None:
    """Rewrite pixels with three equal channels as one channel."""
    smaller = path.with_suffix(".grey")
    with smaller.open("wb") as file:
        for part in _parts(path):
            file.write(np.ascontiguousarray(part[:, 0]).data)
    os.replace(smaller, path)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"

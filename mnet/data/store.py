"""Decoded images as bytes, in memory or in a memory-mapped file: decoded once, then read without decoding.

Processes that map a store on disk share its pages. `store_build` makes stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

PIXELS, SIZES, DESCRIPTION, UNREADABLE = "pixels.bin", "sizes.bin", "store.json", "unreadable.json"


class ImageStore:
    """Decoded images, one after another, of one size or of different sizes.

    It can be sent to another process, which maps a store on disk and shares one in memory after `share_memory_`.
    """

    def __init__(
        self,
        pixels: Tensor,
        sizes: Tensor,
        channels: int,
        unreadable: Mapping[int, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            pixels: (bytes,) uint8, rows of pixels of `channels` bytes.
            sizes: (N, 2) int64, height and width; 0 for an image that could not be read.
            channels: 1 for masks or if all images are grey, else 3.
            unreadable: index -> reason, for the images that could not be read.
            folder: folder of a store on disk; None = in memory.
        """
        self.pixels, self.sizes, self.channels, self.folder = pixels, sizes, channels, folder
        self.unreadable = dict(unreadable or {})
        self._ends = (sizes.prod(1) * channels).cumsum(0)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        """One image, (H, W, C) uint8, without a copy."""
        height, width = self.sizes[index].tolist()
        end = int(self._ends[index])
        return self.pixels[end - height * width * self.channels : end].view(height, width, self.channels)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.pixels.nbytes

    def uniform(self) -> Tensor:
        """Images of one size, without the unreadable ones: (N, C, H, W) uint8 channels_last, not copied."""
        height, width = self.sizes.amax(0).tolist()
        return self.pixels.view(-1, height, width, self.channels).permute(0, 3, 1, 2)

    def ranks(self) -> Tensor:
        """(N,) int64, the index of each image in `uniform`."""
        return (self.sizes.prod(1) > 0).cumsum(0) - 1

    def share_memory_(self) -> Self:
        """Let processes that receive this store share its memory."""
        if self.folder is None:
            for values in (self.pixels, self.sizes, self._ends):
                values.share_memory_()
        return self

    def to(self, device: torch.device) -> ImageStore:
        """A copy of the pixels on a device."""
        return ImageStore(self.pixels.to(device), self.sizes, self.channels, self.unreadable)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.folder is None else {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state["folder"]
        self.__dict__ = state if folder is None else open_store(folder).__dict__


def open_store(folder: Path) -> ImageStore:
    """Open a finished store; its pixels are mapped, not read."""
    path = folder / PIXELS
    pixels = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    channels = json.loads((folder / DESCRIPTION).read_text())["channels"]
    return ImageStore(pixels, stored_sizes(folder), channels, stored_unreadable(folder), folder)


def stored_sizes(folder: Path) -> Tensor:
    """Sizes of the images that are complete, (N, 2) int64."""
    path = folder / SIZES
    content = np.fromfile(path, np.int32) if path.is_file() else np.empty(0, np.int32)
    return torch.from_numpy(content[: len(content) // 2 * 2].astype(np.int64)).view(-1, 2)


def stored_unreadable(folder: Path) -> dict[int, str]:
    path = folder / UNREADABLE
    return {int(index): why for index, why in json.loads(path.read_text()).items()} if path.is_file() else {}

"""Augmentation of a whole batch at once: random crop, flip and cutout, without a loop over samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mnet.errors import ConfigError


@dataclass(frozen=True)
class Augment:
    """Random changes to each training image."""

    flip: bool = True
    """Mirror left to right, one image in two."""
    pad: int = 0
    """Pad with this many black pixels on each side, then crop back to size at a random position."""
    resized: bool = False
    """Crop a part of random size, aspect and position, and scale it to the network's resolution."""
    erase: float = 0.0
    """Share of the images, in [0, 1], that lose a square of half their side (cutout).

    Source: DeVries & Taylor 2017, section 3 (16 of 32 pixels on CIFAR-10)."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ConfigError(f"augment.pad is {self.pad}; expected at least 0 pixels.")
        if not 0 <= self.erase <= 1:
            raise ConfigError(f"augment.erase is {self.erase}; expected a share in [0, 1].")


UNCHANGED = Augment(flip=False)
RESIZED_CROP = Augment(flip=True, resized=True)

CACHED = 2**17
"""Numbers processed at a time on a CPU, to stay in a core's cache."""


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Arguments of `normalise`, from mean and standard deviation per channel of pixels scaled to [0, 1]."""
    deviation = torch.tensor(std, device=device)
    return 1 / (255 * deviation), -torch.tensor(mean, device=device) / deviation


class Draws(NamedTuple):
    """Random numbers for the augmentation of N images; None for those that it does not use."""

    offsets: Tensor | None
    """(2, N) int64: row and column of the crop."""
    mirrored: Tensor | None
    """(N,) bool."""
    erasing: Tensor | None
    """(3, N, 1) in [0, 1): row and column of the erased square, and whether there is one."""

    @classmethod
    def of(cls, augment: Augment, count: int, generator: Generator | None, device: torch.device) -> Draws:
        """Draw for `count` images from a generator on their device."""
        where: dict[str, Any] = {"generator": generator, "device": device}
        return cls(
            torch.randint(2 * augment.pad + 1, (2, count), **where) if augment.pad else None,
            torch.rand(count, **where) < 0.5 if augment.flip else None,
            torch.rand((3, count, 1), **where) if augment.erase else None,
        )

    @classmethod
    def join(cls, parts: Sequence[Draws]) -> Draws:
        """Concatenate the draws for several batches with the same augmentation."""
        columns = zip(*parts, strict=True)
        return cls(*(None if one[0] is None else torch.cat(one, min(1, one[0].dim() - 1)) for one in columns))


def normalise(
    images: Tensor,
    scale: Tensor,
    shift: Tensor,
    augment: Augment | None = None,
    draws: Draws | Generator | None = None,
) -> Tensor:
    """`images * scale + shift` as float32 channels_last, after augmentation.

    Args:
        images: (N, C, H, W), uint8 or float.
        scale: (C,) float32, factor per channel.
        shift: (C,) float32, added per channel.
        augment: random changes; None for evaluation.
        draws: the random numbers, or their source, on the images' device.
    """
    pixels = images.permute(0, 2, 3, 1)  # crop and flip while a channel is one byte
    if augment is None:
        augment = UNCHANGED
    if not isinstance(draws, Draws):
        draws = Draws.of(augment, len(pixels), draws, pixels.device)
    if draws.offsets is not None:
        pixels = _crop(pixels, augment.pad, draws.offsets)
    if draws.mirrored is not None:
        pixels = torch.where(draws.mirrored.view(-1, 1, 1, 1), pixels.flip(2), pixels)
    n, height, width, channels = pixels.shape
    rows = pixels.reshape(n, height, width * channels)  # long rows vectorise, 3 channels do not
    factors, summands = scale.repeat(width), shift.repeat(width)
    result = _empty(rows.shape, rows.device)
    step = max(1, CACHED // (height * width * channels)) if rows.device.type == "cpu" else max(1, n)
    for few, into in zip(rows.split(step), result.split(step), strict=True):
        into.copy_(few).mul_(factors).add_(summands)
    result = result.view(n, height, width, channels)
    if draws.erasing is not None:
        result *= _cutout(pixels, augment.erase, draws.erasing)
    return result.permute(0, 3, 1, 2)


def _empty(shape: Sequence[int], device: torch.device) -> Tensor:
    """An uninitialised float tensor. On a CPU it uses huge pages, which numpy requests: batches of photographs are too
    large for the allocator to reuse, and mapping fresh small pages takes longer than filling them."""
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    count, align = math.prod(shape), 16  # numbers in a cache line, where torch's tensors start
    memory = np.empty(count + align, np.float32)
    start = -memory.ctypes.data // memory.itemsize % align
    return torch.from_numpy(memory[start : start + count]).view(*shape)


def _crop(pixels: Tensor, pad: int, positions: Tensor) -> Tensor:
    """(N, H, W, C) random windows of the padded images: one view of all windows, indexed."""
    n, height, width, channels = pixels.shape
    padded = F.pad(pixels, (0, 0, pad, pad, pad, pad)).contiguous()
    image, row, column, channel = padded.stride()
    offsets = 2 * pad + 1
    windows = padded.as_strided(
        (n, offsets, offsets, height, width, channels), (image, row, column, row, column, channel)
    )
    return windows[torch.arange(n, device=pixels.device), positions[0], positions[1]]


def _cutout(pixels: Tensor, share: float, draws: Tensor) -> Tensor:
    """(N, H, W, 1) float mask: 0 in the erased square, which may extend beyond the edge, 1 elsewhere.

    Applied after normalisation, so that an erased pixel has the mean colour.
    """
    _, height, width, _ = pixels.shape

    def inside(size: int, draw: Tensor) -> Tensor:
        side = size // 2
        start = (draw * size).long() - side // 2
        position = torch.arange(size, device=pixels.device)
        return (position >= start) & (position < start + side)

    rows, columns = inside(height, draws[0]), inside(width, draws[1])
    erased = rows[:, :, None] & columns[:, None, :] & (draws[2] < share)[:, :, None]
    return (~erased).float().unsqueeze(-1)

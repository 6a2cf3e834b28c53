"""Crops of stored images: drawn for a whole batch, then scaled to the network's resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.ops import roi_align

SCALE = (0.08, 1.0)
"""Range of a random crop's area, as a share of the image's."""
ASPECT = (3 / 4, 4 / 3)
"""Range of a random crop's width over its height."""
TRIES = 10


def draw_crops(sizes: Tensor, generator: Generator) -> Tensor:
    """Random crops, as torchvision's RandomResizedCrop draws them, for a batch at once.

    Source: Szegedy et al. 2015, section 6.

    Args:
        sizes: (N, 2) int64, height and width of the images.
        generator: the source of the random numbers, on the CPU.

    Returns:
        (N, 4) int64: top, left, height and width, within the images. If all `TRIES` draws exceed an image, its crop is
        the largest centre crop within `ASPECT`.
    """
    count = len(sizes)
    height, width = sizes.float().unbind(1)
    draws = torch.rand((4, TRIES, count), generator=generator)
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = torch.exp(low + (high - low) * draws[1])
    across, down = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (across > 0) & (down > 0) & (across <= width) & (down <= height)
    top, left = (draws[2] * (height - down + 1)).floor(), (draws[3] * (width - across + 1)).floor()
    drawn = torch.stack([top, left, down, across], 2)[fits.int().argmax(0), torch.arange(count)]
    aspect = (width / height).clamp(*ASPECT)
    across, down = torch.minimum(width, height * aspect).round(), torch.minimum(height, width / aspect).round()
    middle = torch.stack([((height - down) / 2).floor(), ((width - across) / 2).floor(), down, across], 1)
    return torch.where(fits.any(0).unsqueeze(1), drawn, middle).long()


def centre_crops(sizes: Tensor, side: int) -> Tensor:
    """The middle squares of images with sides of at least `side`: (N, 4) int64, as `draw_crops` returns them."""
    corners = (sizes - side) // 2
    return torch.cat([corners, torch.full_like(sizes, side)], 1)


def scale_crops(
    images: Sequence[Tensor], crops: Tensor, side: int, device: torch.device, mirrored: Tensor | None = None
) -> Tensor:
    """Crops scaled to squares, bilinearly and antialiased: (N, side, side, C) uint8 on a CPU, float on a GPU.

    Args:
        images: (H, W, C) uint8 each, on one device.
        crops: (N, 4) int64, as `draw_crops` returns them.
        side: side of the squares, in pixels.
        device: where to scale.
        mirrored: (N,) bool, which of them to mirror left to right.
    """
    parts = [
        image[top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images, crops.tolist(), strict=True)
    ]
    if mirrored is not None:  # before scaling, which copies the part anyway
        parts = [part.flip(1) if flip else part for part, flip in zip(parts, mirrored.tolist(), strict=True)]
    return _scale_each(parts, side) if device.type == "cpu" else scale_together(parts, side, device)


def _scale_each(parts: Sequence[Tensor], side: int) -> Tensor:
    """Scale one image at a time per thread, which is fastest for small images on a CPU."""
    result = torch.empty(len(parts), side, side, parts[0].shape[2], dtype=torch.uint8)

    def scale(i: int) -> None:
        part = parts[i]
        if part.shape[:2] != (side, side):
            image = part.contiguous().unsqueeze(0).permute(0, 3, 1, 2)  # channels_last, which is scaled twice as fast
            part = F.interpolate(image, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        result[i] = part

    threads = torch.get_num_threads()
    if threads == 1:
        for i in range(len(parts)):
            scale(i)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(scale, range(len(parts))))
    return result


def scale_together(parts: Sequence[Tensor], side: int, device: torch.device) -> Tensor:
    """Scale all images in one call, as a GPU needs it: (N, side, side, C) float."""
    sizes = torch.tensor([part.shape[:2] for part in parts])
    height, width = sizes.amax(0).tolist()
    padded = torch.zeros((len(parts), height, width, parts[0].shape[2]), dtype=torch.uint8, device=parts[0].device)
    for i, part in enumerate(parts):
        padded[i, : part.shape[0], : part.shape[1]] = part
    boxes = torch.zeros((len(parts), 5), device=device)
    boxes[:, 0] = torch.arange(len(parts), device=device)
    boxes[:, 3:] = sizes.flip(1).to(device, non_blocking=True)
    batch = padded.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    return roi_align(batch, boxes, (side, side), sampling_ratio=-1, aligned=True).permute(0, 2, 3, 1)

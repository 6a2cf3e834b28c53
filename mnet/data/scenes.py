"""Scenes: garments of Fashion-MNIST in many sizes on a cluttered canvas, overlapping; with boxes and masks.

Composed in integer arithmetic, so that a scene is the same bytes on every machine: a pure function of split, index
and resolution. Garments of one split appear only in scenes of that split.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnet.data.annotated import AnnotatedData, AnnotatedSettings
from mnet.data.augment import Augment
from mnet.data.batches import TargetBatches
from mnet.data.decoded import DecodedSettings, Images, InMemoryImages, channels_last
from mnet.data.fashion_mnist import FashionMNIST
from mnet.data.module import VAL_SIZE
from mnet.data.splits import stratified_split
from mnet.data.targets import Boxes, Masks, Targets
from mnet.errors import ConfigError

SIDE = 28
"""Height and width of a garment in Fashion-MNIST, in pixels."""
OBJECTS, PIECES = 3, 4
"""Largest number of garments, and number of pieces of clutter, in a scene."""
EMPTY = 32
"""One scene in this many has no garment."""
SMALLEST, LARGEST = 0.3, 0.5
"""Range of a garment's height and width, as shares of the canvas."""
OUTSIDE = 0.05
"""Share of a garment's height and width that may extend beyond the edge."""
MIN_VISIBLE = 0.25
"""A garment with a smaller visible share has no box; its pixels keep their class in the mask."""
MIN_BOX_SIDE = 3
"""Smallest height and width of a box, in pixels."""
FAINT = 20
"""Pixels of a garment below this value, of 255, are transparent."""
CHUNK = 256  # scenes composed at once
_SEEDS = {"train": 1, "val": 2, "test": 3}
_DRAWS = 1 + 2 + 7 * (OBJECTS + PIECES)


class Scenes(NamedTuple):
    """Composed images with both kinds of labels."""

    images: Tensor
    """(N, 1, H, W) uint8"""
    boxes: Boxes
    """Tight around the visible pixels."""
    masks: Masks
    """0 = background, garment classes from 1 on."""


class Garments(NamedTuple):
    """The images that scenes are composed of."""

    pixels: np.ndarray
    """(N, 28, 28) uint8"""
    labels: np.ndarray
    """(N,) from 0 on"""


@dataclass(frozen=True, kw_only=True)
class ScenesSettings(DecodedSettings, AnnotatedSettings):
    """Settings of scenes."""

    batch_size: int = 32
    val_size: int = 500


class ScenesData(AnnotatedData, InMemoryImages):
    """Garments with boxes or masks, on grey canvases of `resolution` pixels a side.

    Detection has 10 classes; segmentation has these and the background.
    """

    settings_type = ScenesSettings
    settings: ScenesSettings
    name = "scenes"
    tasks = ("detection", "segmentation")
    native_resolution = 128
    train_size = 8_000
    test_size: ClassVar[int] = 1000
    in_channels = 1
    class_names = FashionMNIST.class_names
    mean = (0.211,)
    std = (0.184,)
    flip_crop = Augment(flip=True)
    loader = TargetBatches

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        if self.resolution < 32:
            raise ConfigError(f"resolution is {self.resolution}; scenes need 32 pixels a side to show garments.")

    def prepare_data(self) -> None:
        FashionMNIST(data_dir=self.data_dir).prepare_data()

    def read(self) -> tuple[Images, Images]:
        """Fashion-MNIST's training and test images."""
        return FashionMNIST(data_dir=self.data_dir).read()

    def setup(self, stage: str | None = None) -> None:
        """Compose all scenes, once."""
        if self._splits:
            return
        train, test = self.read()
        chosen, held_out = stratified_split(train.labels, VAL_SIZE)
        garments = {
            "train": Images(train.images[chosen], train.labels[chosen]),
            "val": Images(train.images[held_out], train.labels[held_out]),
            "test": test,
        }
        val_size = self.settings.val_size
        counts = {"train": self.train_size - val_size, "val": val_size, "test": self.test_size}
        for split, part in garments.items():
            pool = Garments(part.images[:, 0].numpy(), part.labels.numpy())
            scenes = compose(pool, split, range(counts[split]), self.resolution)
            targets: Targets = scenes.boxes if self.task == "detection" else scenes.masks
            self._splits[split] = channels_last(scenes.images, targets)


def compose(garments: Garments, split: str, indices: range, resolution: int) -> Scenes:
    """Scenes of a split.

    Args:
        garments: The garments of the split.
        split: train, val or test; selects the random numbers.
        indices: The scenes to compose; each is the same in any range.
        resolution: Height and width of the canvas, in pixels.
    """
    ranges = [range(start, min(start + CHUNK, indices.stop)) for start in range(indices.start, indices.stop, CHUNK)]
    with ThreadPoolExecutor() as pool:  # numpy releases the GIL
        parts = list(pool.map(lambda part: _compose_chunk(garments, random_draws(split, part), resolution), ranges))
    images, boxes, labels, masks = (torch.from_numpy(np.concatenate(chunks)) for chunks in zip(*parts, strict=True))
    return Scenes(images.unsqueeze(1), Boxes(boxes, labels), Masks(masks))


def random_draws(split: str, indices: range) -> np.ndarray:
    """The random 32-bit numbers of scenes: (N, _DRAWS) int64. A row is a function of split and index."""
    generator = np.random.PCG64(np.random.SeedSequence([20171021, _SEEDS[split]]))
    generator.advance(indices.start * _DRAWS)
    raw = np.asarray(
        generator.random_raw(len(indices) * _DRAWS)
    )  # unlike a Generator's numbers, stable across numpy versions
    return (raw >> np.uint64(32)).astype(np.int64).reshape(len(indices), _DRAWS)


def _integer(draw: np.ndarray, low: int, high: int) -> np.ndarray:
    """An integer from low to high, both included, from a 32-bit number."""
    return low + draw * (high - low + 1) // 2**32


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images (N, H, W) uint8, boxes (N, OBJECTS, 4) float32, labels (N, OBJECTS) int64, masks (N, H, W) uint8."""


def _compose_chunk(garments: Garments, random: np.ndarray, resolution: int) -> Chunk:
    n, largest = len(random), round(LARGEST * resolution)
    canvas = _background(random[:, 0], random[:, 1], largest, resolution)
    owner = np.zeros(canvas.shape, np.uint8)  # garment number from 1 on; 0 = background
    slots = random[:, 3:].reshape(n, OBJECTS + PIECES, 7)
    counts = garment_counts(random)
    for piece in range(PIECES):
        _paste(canvas, owner, garments, slots[:, OBJECTS + piece], resolution, np.ones(n, bool), 0)
    labels, areas = np.zeros((n, OBJECTS), np.int64), np.zeros((n, OBJECTS), np.int64)
    for slot in range(OBJECTS):
        present = counts > slot
        kind, areas[:, slot] = _paste(canvas, owner, garments, slots[:, slot], resolution, present, slot + 1)
        labels[:, slot] = np.where(present, kind + 1, 0)
    middle = slice(largest, largest + resolution)
    owner, image = owner[:, middle, middle], canvas[:, middle, middle]
    boxes, visible = np.zeros((n, OBJECTS, 4), np.float32), np.zeros((n, OBJECTS), np.int64)
    for slot in range(OBJECTS):
        pixels = owner == slot + 1
        visible[:, slot] = pixels.sum((1, 2))
        for axis, ends in ((1, (0, 2)), (2, (1, 3))):  # columns, then rows
            line = pixels.any(axis)
            boxes[:, slot, ends[0]] = line.argmax(1)
            boxes[:, slot, ends[1]] = line.shape[1] - line[:, ::-1].argmax(1)
    classes = np.concatenate([np.zeros((n, 1), np.int64), labels], 1)
    masks = classes[np.arange(n)[:, None, None], owner].astype(np.uint8)
    thin = np.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]) < MIN_BOX_SIDE
    labels[(visible < MIN_VISIBLE * areas) | thin | (visible == 0)] = 0
    order = np.argsort(labels == 0, axis=1, kind="stable")  # padding last
    boxes = np.take_along_axis(boxes * (labels > 0)[..., None], order[..., None], 1)
    return np.ascontiguousarray(image), boxes.astype(np.float32), np.take_along_axis(labels, order, 1), masks


def garment_counts(random: np.ndarray) -> np.ndarray:
    """Number of garments per scene, (N,)."""
    return np.where(random[:, 2] % EMPTY == 0, 0, 1 + _integer(random[:, 2], 0, OBJECTS - 1))


def _background(level: np.ndarray, slope: np.ndarray, margin: int, resolution: int) -> np.ndarray:
    """A grey ramp with noise: (N, side, side) uint8, with a margin on all sides."""
    side = resolution + 2 * margin
    position = np.arange(side)
    dark, steep = _integer(level, 0, 60)[:, None, None], _integer(slope, -50, 50)[:, None, None]
    ramp = dark + steep * (position[:, None] + position)[None] // (2 * side)
    seeds = (level[:, None, None] + slope[:, None, None]) & 0xFFFF
    grain = ((position[:, None] * 7919 + position * 104729)[None] * (seeds | 1)) >> 7 & 15
    return np.clip(ramp + grain, 0, 255).astype(np.uint8)


def _paste(
    canvas: np.ndarray,
    owner: np.ndarray,
    garments: Garments,
    random: np.ndarray,
    resolution: int,
    present: np.ndarray,
    slot: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a garment on each canvas; for slot 0, a piece of one as clutter, which counts as background.

    Returns:
        The garments' labels, and the number of pixels that each covers; (N,).
    """
    n, margin = len(canvas), (canvas.shape[1] - resolution) // 2
    which = _integer(random[:, 0], 0, len(garments.labels) - 1)
    pixels = garments.pixels[which].astype(np.int32)
    pixels = np.where((random[:, 1] % 2 == 0)[:, None, None], pixels, pixels[:, :, ::-1])
    low, high = round(SMALLEST * resolution), margin
    crop = SIDE
    if not slot:  # a small corner of a garment
        crop, low, high = 10, max(4, resolution // 16), resolution // 5
        pixels = pixels[:, 9 : 9 + crop, 9 : 9 + crop]
    height, width = _integer(random[:, 2], low, high), _integer(random[:, 3], low, high)
    if slot:  # close to the garment's own aspect ratio
        width = np.clip(width, height * 3 // 4, height * 4 // 3).clip(low, high)
    beyond = [(side * round(100 * OUTSIDE) // 100) for side in (height, width)]
    top = margin + _integer(random[:, 4], 0, 2**31) % (resolution - height + 2 * beyond[0] + 1) - beyond[0]
    left = margin + _integer(random[:, 5], 0, 2**31) % (resolution - width + 2 * beyond[1] + 1) - beyond[1]
    patch = _scale(pixels, crop, height, width, high)
    solid = (patch >= FAINT) & present[:, None, None]
    patch = patch * _integer(random[:, 6], 180, 255)[:, None, None] // 255
    offsets = np.arange(high)
    rows, columns = (top[:, None] + offsets)[:, :, None], (left[:, None] + offsets)[:, None, :]
    at = (np.arange(n)[:, None, None], rows, columns)
    canvas[at] = np.where(solid, patch, canvas[at])
    if slot:
        owner[at] = np.where(solid, slot, owner[at])
    return garments.labels[which], solid.sum((1, 2))


def _scale(pixels: np.ndarray, side: int, height: np.ndarray, width: np.ndarray, window: int) -> np.ndarray:
    """(N, side, side) scaled bilinearly, in 256ths, to the upper left `height` x `width` of (N, window, window)."""

    def taps(size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        position = (2 * np.arange(window) + 1) * side * 128 // size[:, None] - 128
        position = np.clip(position, 0, (side - 1) * 256)
        first = position >> 8
        return first, np.minimum(first + 1, side - 1), position & 255, np.arange(window) < size[:, None]

    i, j, weight, inside = taps(height)
    rows = np.take_along_axis(pixels, i[:, :, None], 1) * (256 - weight)[:, :, None]
    rows += np.take_along_axis(pixels, j[:, :, None], 1) * weight[:, :, None]
    i, j, weight, across = taps(width)
    result = np.take_along_axis(rows, i[:, None, :], 2) * (256 - weight)[:, None, :]
    result += np.take_along_axis(rows, j[:, None, :], 2) * weight[:, None, :]
    return (result >> 16) * (inside[:, :, None] & across[:, None, :])

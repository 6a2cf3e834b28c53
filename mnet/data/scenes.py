"""Scenes: real garments of Fashion-MNIST on a canvas, among clutter, of many sizes, overlapping; with boxes and masks.

Composed with whole numbers alone, so that a scene is the same bytes on every machine: a pure function of split, index
and resolution. Garments of one split never stand in scenes of another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnet.data.augment import Augment
from mnet.data.batches import TargetBatches
from mnet.data.fashion_mnist import FashionMNIST
from mnet.data.module import VAL_SIZE, Images, InMemoryImages, as_batches_want
from mnet.data.targets import Boxes, Masks, Targets
from mnet.errors import ConfigError, unknown

SIDE = 28
"""Of a garment, in pixels."""
OBJECTS, PIECES = 3, 4
"""Garments, at most, and pieces of clutter in a scene."""
EMPTY = 32
"""One scene in so many has no garment."""
SMALLEST, LARGEST = 0.3, 0.5
"""Width and height of a garment's square, as shares of the canvas."""
OUTSIDE = 0.05
"""Shard of a garment's square that may lie beyond the edge."""
HIDDEN = 0.25
"""A garment less visible than this is not asked for; its pixels are still of its class."""
THINNEST = 3
"""Pixels that a box has at least in width and height."""
FAINT = 20
"""Pixels of a garment below this are seen through, of 255."""
CHUNK = 256  # scenes composed at once
_SEEDS = {"train": 1, "val": 2, "test": 3}
_DRAWS = 1 + 2 + 7 * (OBJECTS + PIECES)


class Scenes(NamedTuple):
    """What was composed."""

    images: Tensor
    """(N, 1, H, W) uint8"""
    boxes: Boxes
    """Tight around what is visible."""
    masks: Masks
    """0 = background, garment classes from 1 on."""


class Garments(NamedTuple):
    """What scenes are composed of."""

    pixels: np.ndarray
    """(N, 28, 28) uint8"""
    labels: np.ndarray
    """(N,) from 0 on"""


class ScenesData(InMemoryImages):
    """Garments to be found (boxes) or outlined (masks), on grey canvases of `resolution` pixels a side.

    For detection 10 classes; for segmentation these and the background.
    """

    name = "scenes"
    tasks = ("detection", "segmentation")
    native_resolution = 128
    train_size = 8_000
    test_size: ClassVar[int] = 1000
    in_channels = 1
    class_names = FashionMNIST.class_names
    mean = (0.211,)
    std = (0.184,)
    default_augment = Augment(flip=True)
    loader = TargetBatches

    def __init__(
        self,
        *,
        data_dir: Path = Path("data"),
        batch_size: int = 32,
        resolution: int | None = None,
        seed: int = 0,
        val_size: int = 500,
        augment: Augment | None = None,
        task: str = "detection",
    ) -> None:
        """As `InMemoryImages`, and:

        Args:
            task: detection or segmentation: which targets batches have.
        """
        super().__init__(
            data_dir=data_dir,
            batch_size=batch_size,
            resolution=resolution,
            seed=seed,
            val_size=val_size,
            augment=augment,
        )
        if task not in self.tasks:
            raise unknown("task of scenes", task, self.tasks)
        if self.resolution < 32:
            raise ConfigError(f"resolution is {self.resolution}; scenes need 32 pixels a side to show garments.")
        self.task = task
        self.num_classes = self.classes(task)

    @classmethod
    def classes(cls, task: str) -> int:
        return len(cls.class_names) + (task == "segmentation")

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("background", *self.class_names) if self.task == "segmentation" else self.class_names

    def prepare_data(self) -> None:
        FashionMNIST(data_dir=self.data_dir).prepare_data()

    def read(self) -> tuple[Images, Images]:
        """Fashion-MNIST's train and test."""
        return FashionMNIST(data_dir=self.data_dir).read()

    def setup(self, stage: str | None = None) -> None:
        """Compose all scenes, once."""
        if self._splits:
            return
        train, test = self.read()
        garments = FashionMNIST(data_dir=self.data_dir, val_size=VAL_SIZE)
        chosen, held_out = garments.split(train.labels)
        pools = {
            "train": Images(train.images[chosen], train.labels[chosen]),
            "val": Images(train.images[held_out], train.labels[held_out]),
            "test": test,
        }
        sizes = {"train": self.train_size - self.val_size, "val": self.val_size, "test": self.test_size}
        for split, pool in pools.items():
            own = Garments(pool.images[:, 0].numpy(), pool.labels.numpy())
            scenes = compose(own, split, range(sizes[split]), self.resolution)
            targets: Targets = scenes.boxes if self.task == "detection" else scenes.masks
            self._splits[split] = as_batches_want(scenes.images, targets)


def compose(garments: Garments, split: str, indices: range, resolution: int) -> Scenes:
    """Scenes of a split.

    Args:
        garments: Of that split alone.
        split: train, val or test: whose random numbers.
        indices: Which scenes; each is the same in any range.
        resolution: Height and width of the canvas, in pixels.
    """
    ranges = [range(start, min(start + CHUNK, indices.stop)) for start in range(indices.start, indices.stop, CHUNK)]
    with ThreadPoolExecutor() as pool:  # numpy frees the interpreter's lock
        parts = list(pool.map(lambda part: compose_chunk(garments, draws(split, part), resolution), ranges))
    images, boxes, labels, masks = (torch.from_numpy(np.concatenate(one)) for one in zip(*parts, strict=True))
    return Scenes(images.unsqueeze(1), Boxes(boxes, labels), Masks(masks))


def draws(split: str, indices: range) -> np.ndarray:
    """Random 32-bit numbers of scenes: (N, _DRAWS) int64, a row a function of split and index."""
    generator = np.random.PCG64(np.random.SeedSequence([20171021, _SEEDS[split]]))
    generator.advance(indices.start * _DRAWS)
    raw = np.asarray(generator.random_raw(len(indices) * _DRAWS))  # unlike the Generator's, the same in every numpy
    return (raw >> np.uint64(32)).astype(np.int64).reshape(len(indices), _DRAWS)


def between(draw: np.ndarray, low: int, high: int) -> np.ndarray:
    """A whole number from low to high, both included."""
    return low + draw * (high - low + 1) // 2**32


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Images (N, H, W) uint8, boxes (N, OBJECTS, 4) float32, labels (N, OBJECTS) int64, masks (N, H, W) uint8."""


def compose_chunk(garments: Garments, random: np.ndarray, resolution: int) -> Chunk:
    n, largest = len(random), round(LARGEST * resolution)
    canvas = background(random[:, 0], random[:, 1], largest, resolution)
    owner = np.zeros(canvas.shape, np.uint8)  # slot from 1 on; 0 = background
    slots = random[:, 3:].reshape(n, OBJECTS + PIECES, 7)
    wanted = wanted_in(random)
    for piece in range(PIECES):
        paste(canvas, owner, garments, slots[:, OBJECTS + piece], resolution, np.ones(n, bool), 0)
    labels, areas = np.zeros((n, OBJECTS), np.int64), np.zeros((n, OBJECTS), np.int64)
    for slot in range(OBJECTS):
        there = wanted > slot
        kind, areas[:, slot] = paste(canvas, owner, garments, slots[:, slot], resolution, there, slot + 1)
        labels[:, slot] = np.where(there, kind + 1, 0)
    middle = slice(largest, largest + resolution)
    owner, image = owner[:, middle, middle], canvas[:, middle, middle]
    boxes, seen = np.zeros((n, OBJECTS, 4), np.float32), np.zeros((n, OBJECTS), np.int64)
    for slot in range(OBJECTS):
        own = owner == slot + 1
        seen[:, slot] = own.sum((1, 2))
        for axis, ends in ((1, (0, 2)), (2, (1, 3))):  # columns, then rows
            line = own.any(axis)
            boxes[:, slot, ends[0]] = line.argmax(1)
            boxes[:, slot, ends[1]] = line.shape[1] - line[:, ::-1].argmax(1)
    classes = np.concatenate([np.zeros((n, 1), np.int64), labels], 1)
    masks = classes[np.arange(n)[:, None, None], owner].astype(np.uint8)
    thin = np.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]) < THINNEST
    labels[(seen < HIDDEN * areas) | thin | (seen == 0)] = 0
    order = np.argsort(labels == 0, axis=1, kind="stable")  # padding last
    boxes = np.take_along_axis(boxes * (labels > 0)[..., None], order[..., None], 1)
    return np.ascontiguousarray(image), boxes.astype(np.float32), np.take_along_axis(labels, order, 1), masks


def wanted_in(random: np.ndarray) -> np.ndarray:
    """How many garments scenes have, (N,)."""
    return np.where(random[:, 2] % EMPTY == 0, 0, 1 + between(random[:, 2], 0, OBJECTS - 1))


def background(level: np.ndarray, slope: np.ndarray, margin: int, resolution: int) -> np.ndarray:
    """A grey ramp with some grain: (N, side, side) uint8, with a margin all around."""
    side = resolution + 2 * margin
    place = np.arange(side)
    dark, steep = between(level, 0, 60)[:, None, None], between(slope, -50, 50)[:, None, None]
    ramp = dark + steep * (place[:, None] + place)[None] // (2 * side)
    seeds = (level[:, None, None] + slope[:, None, None]) & 0xFFFF
    grain = ((place[:, None] * 7919 + place * 104729)[None] * (seeds | 1)) >> 7 & 15
    return np.clip(ramp + grain, 0, 255).astype(np.uint8)


def paste(
    canvas: np.ndarray,
    owner: np.ndarray,
    garments: Garments,
    random: np.ndarray,
    resolution: int,
    there: np.ndarray,
    slot: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay a garment on every canvas, or with slot 0 a piece of one, which stays background.

    Returns:
        The garments' labels, and how many pixels each has on its own; (N,).
    """
    n, margin = len(canvas), (canvas.shape[1] - resolution) // 2
    which = between(random[:, 0], 0, len(garments.labels) - 1)
    pixels = garments.pixels[which].astype(np.int32)
    pixels = np.where((random[:, 1] % 2 == 0)[:, None, None], pixels, pixels[:, :, ::-1])
    low, high = round(SMALLEST * resolution), margin
    crop = SIDE
    if not slot:  # a corner of a garment, small
        crop, low, high = 10, max(4, resolution // 16), resolution // 5
        pixels = pixels[:, 9 : 9 + crop, 9 : 9 + crop]
    height, width = between(random[:, 2], low, high), between(random[:, 3], low, high)
    if slot:  # near to the garment's own shape
        width = np.clip(width, height * 3 // 4, height * 4 // 3).clip(low, high)
    beyond = [(side * round(100 * OUTSIDE) // 100) for side in (height, width)]
    top = margin + between(random[:, 4], 0, 2**31) % (resolution - height + 2 * beyond[0] + 1) - beyond[0]
    left = margin + between(random[:, 5], 0, 2**31) % (resolution - width + 2 * beyond[1] + 1) - beyond[1]
    patch = scale(pixels, crop, height, width, high)
    solid = (patch >= FAINT) & there[:, None, None]
    patch = patch * between(random[:, 6], 180, 255)[:, None, None] // 255
    offsets = np.arange(high)
    rows, columns = (top[:, None] + offsets)[:, :, None], (left[:, None] + offsets)[:, None, :]
    at = (np.arange(n)[:, None, None], rows, columns)
    canvas[at] = np.where(solid, patch, canvas[at])
    if slot:
        owner[at] = np.where(solid, slot, owner[at])
    return garments.labels[which], solid.sum((1, 2))


def scale(pixels: np.ndarray, side: int, height: np.ndarray, width: np.ndarray, window: int) -> np.ndarray:
    """(N, side, side) in the upper left `height` x `width` of (N, window, window), bilinear in 256ths, else 0."""

    def taps(size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        place = (2 * np.arange(window) + 1) * side * 128 // size[:, None] - 128
        place = np.clip(place, 0, (side - 1) * 256)
        first = place >> 8
        return first, np.minimum(first + 1, side - 1), place & 255, np.arange(window) < size[:, None]

    i, j, weight, inside = taps(height)
    rows = np.take_along_axis(pixels, i[:, :, None], 1) * (256 - weight)[:, :, None]
    rows += np.take_along_axis(pixels, j[:, :, None], 1) * weight[:, :, None]
    i, j, weight, across = taps(width)
    found = np.take_along_axis(rows, i[:, None, :], 2) * (256 - weight)[:, None, :]
    found += np.take_along_axis(rows, j[:, None, :], 2) * weight[:, None, :]
    return (found >> 16) * (inside[:, :, None] & across[:, None, :])

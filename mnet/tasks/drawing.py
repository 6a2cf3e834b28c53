"""Predictions drawn over their images. Every class has one colour, the same in every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

# Okabe and Ito's palette, then further colours that can be told apart from it.
COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"),
    *("#882255", "#44AA99", "#DDCC77", "#332288"),
)
MOST_DRAWN = 2048
"""Largest height and width drawn, in pixels. Matplotlib takes at least 16 bytes per pixel."""
OPACITY = 0.55
"""Opacity of a mask drawn over its image."""


class Limit(NamedTuple):
    """How much of a prediction is shown."""

    score: float = 0.5
    """The lowest score of a box."""
    top: int = 5
    """The number of classes of a classifier."""


BACKGROUND = "background"
"""The name of a class that is not drawn."""


def colour(name: str, names: Sequence[str]) -> str:
    """The colour of a class, the same with and without a background among the names."""
    return COLOURS[[other for other in names if other != BACKGROUND].index(name) % len(COLOURS)]


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Draw an image, (H, W) or (H, W, 3) uint8, without axes."""
    _draw_pixels(axes, thin_out(image), image.shape, cmap="gray", vmin=0, vmax=255)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_axis_off()


def thin_out(pixels: np.ndarray) -> np.ndarray:
    """Every nth row and column, so that neither side has more than `MOST_DRAWN`: a figure has no room for more."""
    step = -(-max(pixels.shape[:2]) // MOST_DRAWN)
    return pixels[::step, ::step]


def _draw_pixels(axes: Axes, pixels: np.ndarray, shape: Sequence[int], **look: Any) -> None:
    """Draw pixels over the height and width of `shape`."""
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    axes.imshow(pixels, interpolation="nearest", extent=extent, **look)


def draw_boxes(axes: Axes, boxes: np.ndarray, colours: Sequence[str], texts: Sequence[str], size: float = 7) -> None:
    """Draw boxes (n, 4), each with its colour and its text of `size` points."""
    for (left, top, right, bottom), box_colour, text in zip(boxes, colours, texts, strict=True):
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=box_colour, linewidth=1.6))
        style = {"facecolor": box_colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        axes.text(*corner, text, fontsize=size, color="black", bbox=style, va="top", ha="left", clip_on=True)


def draw_mask(axes: Axes, mask: np.ndarray, names: Sequence[str]) -> None:
    """Draw classes (H, W) over an image; background and unlabelled pixels stay transparent."""
    drawn = thin_out(mask)
    overlay = np.zeros((*drawn.shape, 4))
    for label in np.unique(drawn):
        if label < len(names) and names[label] != BACKGROUND:
            overlay[drawn == label] = (*to_rgb(colour(names[label], names)), OPACITY)
    _draw_pixels(axes, overlay, mask.shape)


def legend_handles(labels: Sequence[int], names: Sequence[str]) -> list[Patch]:
    """The entries of a legend, one per class except the background."""
    named = [names[label] for label in labels if names[label] != BACKGROUND]
    return [Patch(color=colour(name, names), label=name) for name in named]


def draw_legend(axes: Axes, labels: Sequence[int], names: Sequence[str]) -> None:
    """Draw a legend next to an image, if there is anything to name."""
    if handles := legend_handles(labels, names):
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_bars(axes: Axes, names: Sequence[str], probabilities: Sequence[float]) -> None:
    """Draw the probabilities of classes in percent, the first on top."""
    rows = range(len(names))
    percents = [100 * probability for probability in probabilities]
    axes.barh(rows, percents, color=COLOURS[4])
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("probability (%)")
    for row, percent in zip(rows, percents, strict=True):
        axes.annotate(f"{percent:.1f}", (percent, row), (3, 0), textcoords="offset points", va="center", fontsize=8)

"""What a network says of an image, drawn over it. One colour a class, the same in every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

# Okabe and Ito's palette, then shades that stay apart from it.
COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"),
    *("#882255", "#44AA99", "#DDCC77", "#332288"),
)
OPACITY = 0.55
"""Of a mask over its image."""


class Limit(NamedTuple):
    """How much of what is seen is shown."""

    score: float = 0.5
    """Boxes at least so sure."""
    top: int = 5
    """Classes of a classifier."""


BACKGROUND = "background"
"""The name of a class that is not drawn."""


def colour(name: str, names: Sequence[str]) -> str:
    """Of a class, the same whether there is a background among the names or not."""
    return COLOURS[[one for one in names if one != BACKGROUND].index(name) % len(COLOURS)]


def show_image(axes: Axes, image: np.ndarray) -> None:
    """(H, W) or (H, W, 3), uint8."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_axis_off()


def draw_boxes(axes: Axes, boxes: np.ndarray, inks: Sequence[str], said: Sequence[str], size: float = 7) -> None:
    """Boxes (n, 4), each in its colour with what is said of it."""
    for (left, top, right, bottom), ink, text in zip(boxes, inks, said, strict=True):
        place, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor=ink, linewidth=1.6))
        look = {"facecolor": ink, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        axes.text(*place, text, fontsize=size, color="black", bbox=look, va="top", ha="left", clip_on=True)


def draw_mask(axes: Axes, mask: np.ndarray, names: Sequence[str]) -> None:
    """Classes (H, W) as a veil over an image, clear where nothing is labelled and where the background is."""
    veil = np.zeros((*mask.shape, 4))
    for label in np.unique(mask):
        if label < len(names) and names[label] != BACKGROUND:
            veil[mask == label] = (*to_rgb(colour(names[label], names)), OPACITY)
    axes.imshow(veil, interpolation="nearest")


def handles_of(labels: Sequence[int], names: Sequence[str]) -> list[Patch]:
    """For a legend: the colour and the name of classes, the background left out."""
    named = [names[label] for label in labels if names[label] != BACKGROUND]
    return [Patch(color=colour(name, names), label=name) for name in named]


def legend(axes: Axes, labels: Sequence[int], names: Sequence[str]) -> None:
    """Beside an image."""
    if handles := handles_of(labels, names):
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_bars(axes: Axes, names: Sequence[str], shares: Sequence[float]) -> None:
    """What is most likely, uppermost, in percent."""
    rows = range(len(names))
    axes.barh(rows, [100 * share for share in shares], color=COLOURS[4])
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("probability (%)")
    for row, share in zip(rows, shares, strict=True):
        axes.annotate(
            f"{100 * share:.1f}", (100 * share, row), (3, 0), textcoords="offset points", va="center", fontsize=8
        )

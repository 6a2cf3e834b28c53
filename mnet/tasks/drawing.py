"""What a network says of a picture, drawn over it. One colour a class, the same in every picture."""

from __future__ import annotations

from collections.abc import Sequence

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
"""Of a mask over its picture."""


def colour(label: int) -> str:
    """Of a class, from 1 on."""
    return COLOURS[(label - 1) % len(COLOURS)]


def show_picture(axes: Axes, picture: np.ndarray) -> None:
    """(H, W) or (H, W, 3), uint8."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(picture.shape[0] - 0.5, -0.5)
    axes.set_axis_off()


def draw_boxes(axes: Axes, boxes: np.ndarray, labels: Sequence[int], said: Sequence[str], size: float = 7) -> None:
    """Boxes (n, 4) with what is said of each, in the colour of its class."""
    for (left, top, right, bottom), label, text in zip(boxes, labels, said, strict=True):
        ink = colour(label)
        place, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor=ink, linewidth=1.6))
        look = {"facecolor": ink, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        axes.text(*place, text, fontsize=size, color="black", bbox=look, va="top", ha="left", clip_on=True)


def draw_mask(axes: Axes, mask: np.ndarray, background: bool = True) -> None:
    """Classes (H, W) as a veil over a picture; class 0 is left clear where it is the background, and so is 255."""
    veil = np.zeros((*mask.shape, 4))
    for label in np.unique(mask):
        if label == 255 or (background and label == 0):
            continue
        veil[mask == label] = (*to_rgb(colour(int(label) + (not background))), OPACITY)
    axes.imshow(veil, interpolation="nearest")


def legend(axes: Axes, labels: Sequence[int], names: Sequence[str], size: float = 8) -> None:
    """Beside a picture: the colour and the name of classes, from 1 on."""
    handles = [Patch(color=colour(label), label=names[label - 1]) for label in labels]
    if handles:
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=size, frameon=False)


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

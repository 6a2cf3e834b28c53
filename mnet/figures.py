"""Matplotlib figures as PNG files: images with boxes, masks and probabilities drawn on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

from matplotlib.figure import Figure
from matplotlib.text import Text

from mnet.files import write_atomic


def save_figure(figure: Figure, path: Path, title: str = "") -> None:
    """Write a figure as PNG, atomically."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for text in figure.findobj(Text):
        cast(Text, text).set_parse_math(False)  # a class may be called $5
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomic(path, lambda stream: stream.write(image.getvalue()))

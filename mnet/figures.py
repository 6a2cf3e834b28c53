"""The common style of matplotlib figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from mnet.files import write_atomic


def finish(
    figure: Figure, path: Path | None, title: str, *, legend: bool = False, grid: Literal["x", "y", "both"] = "x"
) -> Figure:
    """Apply the common style; write the figure as PNG to `path`, unless it is None."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    if legend:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    if path is not None:
        image = io.BytesIO()
        figure.savefig(image, format="png")
        write_atomic(path, lambda stream: stream.write(image.getvalue()))
    return figure

"""What the networks of a study see in the same test images, beside what these show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from mnet.figures import finish
from mnet.studies.runs.store import EXAMPLES, read_result, run_folder
from mnet.studies.study import Cell, Study
from mnet.tasks.drawing import Limit, handles_of, show_image

if TYPE_CHECKING:  # Lightning is heavy, and tables do not need it
    from mnet.tasks.module import TaskModule

INCH = 1.7
"""Side of an image in the figure."""
TRUTH = "what is there"
SHOWN = Limit(score=0.3)
"""Networks that were trained for minutes are seldom surer."""

Examples = Mapping[str, Any]
"""`images` (N, C, H, W) uint8, `names`, and `truth` and `seen`: a tensor an image, or several by name."""


def read_examples(study: Study, cell: Cell, root: Path) -> Examples | None:
    """Of the first finished run of a cell that kept them."""
    for trial in cell.trials:
        folder = run_folder(root, study.name, trial.run_id)
        if read_result(folder) is not None and (folder / EXAMPLES).is_file():
            return torch.load(folder / EXAMPLES, map_location="cpu", weights_only=True)
    return None


def plot_examples(study: Study, root: Path, path: Path, title: str) -> Figure | None:
    """A row an image: what it shows, then what the network of each cell sees. Written as PNG to `path`.

    Returns:
        None, and nothing is written, where no run has kept examples.
    """
    found = {cell.name: own for cell in study.cells if (own := read_examples(study, cell, root)) is not None}
    if not found:
        return None
    first = next(iter(found.values()))
    module, names, rows = study.task.load(), first["names"], len(first["images"])
    columns = {TRUTH: first["truth"], **{name: own["seen"] for name, own in found.items()}}
    size = (INCH * len(columns), INCH * rows + 1.2)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    used: set[int] = set()
    for column, (name, shown) in enumerate(columns.items()):
        for row, one in enumerate(shown):
            axes, seen = grid[row][column], restored(one, module)
            show_image(axes, first["images"][row].permute(1, 2, 0).squeeze(2).numpy())
            module.draw_on(axes, seen, names, SHOWN, size=5)
            used |= set(module.key(seen, SHOWN))
            if not row:
                axes.set_title("\n".join(words(name)), fontsize=7)
    if handles := handles_of(sorted(used), names):
        look = {"ncols": min(len(handles), 10), "frameon": False, "fontsize": 8}
        figure.legend(handles=handles, loc="outside lower center", **look)
    return finish(figure, path, title)


def restored(one: Any, module: type[TaskModule]) -> Any:
    """The prediction that `to_tensors` took apart."""
    return module.seen_from(**one) if isinstance(one, dict) else one


def words(cell: str) -> Sequence[str]:
    """A cell's name, a setting a line."""
    return cell.replace(", ", " ").replace("model=mobilenet_", "").split() if "=" in cell else [cell]

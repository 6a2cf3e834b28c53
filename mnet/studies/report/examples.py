"""The first test images of a study: what is in them, and what the networks of its cells predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from mnet.errors import ConfigError, leave_out
from mnet.figures import save_figure
from mnet.studies.runs.store import EXAMPLES, known_result, run_folder
from mnet.studies.study import Cell, Study
from mnet.tasks.drawing import Limit, legend_handles, show_image
from mnet.tasks.module import TaskModule
from mnet.weights.files import read_file

SIDE = 1.7
"""Side of an image in the figure, in inches."""
SHOWN = Limit(score=0.3)
"""Networks that were trained for minutes are seldom more confident."""

MOST_IMAGES, MOST_PIXELS = 64, 2**26
"""Limits for the examples of a run, which normally has `COUNT` images."""

Examples = Mapping[str, Any]
"""`images` (N, C, H, W) uint8, `names`, and `truth` and `seen`: one tensor per image, or several by name."""


def read_examples(study: Study, cell: Cell, root: Path) -> Examples | None:
    """The examples of the first finished run of a cell that kept some."""
    for trial in cell.trials:
        folder = run_folder(root, study.name, trial.run_id)
        if known_result(folder) is not None and (folder / EXAMPLES).is_file():
            try:
                return check_examples(read_file(folder / EXAMPLES))
            except ConfigError as error:
                leave_out(folder / EXAMPLES, error)
    return None


def check_examples(content: object) -> Examples:
    """
    Raises:
        ConfigError: The content is not what `keep_examples` writes.
    """
    kinds = {"images": Tensor, "names": list, "truth": list, "seen": list}
    if not isinstance(content, dict) or any(not isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise ConfigError("it holds no examples of a run")
    images, truth, seen = content["images"], content["truth"], content["seen"]
    counts = {len(images), len(truth), len(seen)}
    if images.ndim != 4 or images.numel() > MOST_PIXELS or len(counts) > 1 or not 0 < len(images) <= MOST_IMAGES:
        raise ConfigError("it holds no examples of a run")
    return content


def save_examples(study: Study, root: Path, path: Path, title: str) -> bool:
    """Draw one row per image: its labels, then the prediction of each cell's first network.

    Args:
        study: The study.
        root: The results folder.
        path: The PNG file.
        title: Title above the images.

    Returns:
        False if no run has kept examples; nothing is written then.
    """
    kept = {cell.name: examples for cell in study.cells if (examples := read_examples(study, cell, root)) is not None}
    if not kept:
        return False
    first = next(iter(kept.values()))
    module, names, rows = study.task.load(), first["names"], len(first["images"])
    columns = {"labels": first["truth"], **{name: examples["seen"] for name, examples in kept.items()}}
    size = (SIDE * len(columns), SIDE * rows + 1.2)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    drawn: set[int] = set()
    for column, (name, predictions) in enumerate(columns.items()):
        for row, kept_tensors in enumerate(predictions):
            axes, prediction = grid[row][column], _restored(kept_tensors, module)
            show_image(axes, first["images"][row].permute(1, 2, 0).squeeze(2).numpy())
            module.draw_over(axes, prediction, names, SHOWN, size=5)
            drawn |= set(module.legend_classes(prediction, SHOWN))
            if not row:
                axes.set_title("\n".join(_settings(name)), fontsize=7)
    if handles := legend_handles(sorted(drawn), names):
        look = {"ncols": min(len(handles), 10), "frameon": False, "fontsize": 8}
        figure.legend(handles=handles, loc="outside lower center", **look)
    save_figure(figure, path, title)
    return True


def _restored(tensors: Any, module: type[TaskModule]) -> Any:
    """Restore predictions that were kept as plain tensors."""
    return module.prediction_type(**tensors) if isinstance(tensors, dict) else tensors


def _settings(cell: str) -> Sequence[str]:
    """A cell's name, one setting per line."""
    return cell.replace(", ", " ").replace("model=mobilenet_", "").split() if "=" in cell else [cell]

"""Tasks: what a network is trained for, which metrics are measured, and the LightningModule that does both.

The head of a network decides its task. To add a task: a module here, its entry in `TASKS`, and its heads in
`mnet.models.tables.HEADS`. Studies, tables, claims and the report take names, metrics and labels from here. The modules
are imported when used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnet.tasks.classification import ImageClassifier
    from mnet.tasks.detection import SSDLiteDetector
    from mnet.tasks.module import TaskModule
    from mnet.tasks.segmentation import ASPPSegmenter

__all__ = [
    "TASKS",
    "ASPPSegmenter",
    "ImageClassifier",
    "Metric",
    "SSDLiteDetector",
    "Task",
    "metric_of",
    "task_in",
    "task_of",
]


@dataclass(frozen=True)
class Metric:
    """A result of a run, in percent; higher is better."""

    name: str
    """Name in tables and result.json, and in logs after `val/` and `test/`."""
    label: str
    """Name shown to readers."""

    @property
    def mean(self) -> str:
        """The column with the mean in a table of cells."""
        return f"{self.name}_mean"

    @property
    def sd(self) -> str:
        """The column with the standard deviation over runs."""
        return f"{self.name}_sd"

    @property
    def half_width(self) -> str:
        """The column with the half width of the mean's 95% t interval."""
        return f"{self.name}_half_width"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What networks with one of `heads` are trained for, and how they are measured."""

    name: str
    heads: tuple[str | None, ...]
    """Values of the toggle `head`; None = the classifier."""
    metrics: tuple[Metric, ...]
    """Studies compare the first one, and claims are tested with it."""
    module: str
    """`module:class` of the LightningModule in this package."""
    resolution: int
    """Height and width, in pixels, at which the papers count multiply-adds (of a square of the same area)."""
    num_classes: int
    """Number of classes for which the papers count them."""
    dense: bool = False
    """Whether there are scores for every pixel."""

    @property
    def headline(self) -> Metric:
        """The metric that studies compare."""
        return self.metrics[0]

    def load(self) -> type[TaskModule]:
        """The class of the LightningModule."""
        module, name = self.module.split(":")
        module_class: type[TaskModule] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return module_class


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="classification",
                heads=(None,),
                metrics=(Metric("top1", "top-1"), Metric("top5", "top-5")),
                module="classification:ImageClassifier",
                resolution=224,
                num_classes=1000,
            ),
            Task(
                name="detection",
                heads=("ssdlite",),
                metrics=(Metric("map", "mAP"), Metric("map_50", "mAP@50"), Metric("map_75", "mAP@75")),
                module="detection:SSDLiteDetector",
                resolution=320,
                num_classes=90,
            ),
            Task(
                name="segmentation",
                heads=("lr_aspp", "r_aspp"),
                metrics=(Metric("miou", "mIoU"), Metric("pixel_accuracy", "pixel accuracy")),
                module="segmentation:ASPPSegmenter",
                resolution=1448,  # the square of 1024 x 2048
                num_classes=19,
                dense=True,
            ),
        )
    }
)


def task_of(head: str | None) -> Task:
    """The task of networks with this head."""
    return next(task for task in TASKS.values() if head in task.heads)


def task_in(columns: Iterable[object]) -> Task:
    """The task of a table with these columns: `map` or `map_mean` is detection; classification if none matches."""
    names = set(map(str, columns))
    matches = (task for task in TASKS.values() if names & {task.headline.name, task.headline.mean})
    return next(matches, TASKS["classification"])


def metric_of(columns: Iterable[object]) -> Metric:
    """The headline metric of a table with these columns."""
    return task_in(columns).headline


def __getattr__(name: str) -> object:
    for task in TASKS.values():
        if task.module.endswith(f":{name}"):
            return task.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

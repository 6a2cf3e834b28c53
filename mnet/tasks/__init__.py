"""Tasks: what a network is trained for, what is measured of it, and the LightningModule that does both.

The head of a network decides its task. To add one: a module here, its entry in `TASKS`, and its heads in
`mnet.models.tables.HEADS`. Studies, tables, claims and the report take names, metrics and labels from here. The modules
themselves are imported when used.
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
    """One number of a run, in percent; higher is better."""

    name: str
    """In tables, in result.json, and after `val/` and `test/` where it is logged."""
    label: str
    """As it is read."""

    @property
    def mean(self) -> str:
        """The column of a table of cells."""
        return f"{self.name}_mean"

    @property
    def sd(self) -> str:
        return f"{self.name}_sd"

    @property
    def half_width(self) -> str:
        """Of the 95% t interval about the mean."""
        return f"{self.name}_half_width"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What networks with one of `heads` are trained for."""

    name: str
    heads: tuple[str | None, ...]
    """Values of the toggle `head`; None = the papers' classifier."""
    metrics: tuple[Metric, ...]
    """The first is what studies compare and claims are tested by."""
    module: str
    """Of the LightningModule, in this package, and its class."""
    resolution: int
    """Of the images that the papers count multiply-adds at: the side, or of oblong ones the side of as large a
    square, in pixels."""
    num_classes: int
    """That they count with."""
    dense: bool = False
    """Whether every pixel has scores of its own."""

    @property
    def headline(self) -> Metric:
        return self.metrics[0]

    def load(self) -> type[TaskModule]:
        """The LightningModule."""
        module, name = self.module.split(":")
        found: type[TaskModule] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return found


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
                resolution=1448,  # 1024 x 2048
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
    """The task that a table is of, by its columns: `map` or `map_mean` is detection's; classification if none says."""
    names = set(map(str, columns))
    found = (task for task in TASKS.values() if names & {task.headline.name, task.headline.mean})
    return next(found, TASKS["classification"])


def metric_of(columns: Iterable[object]) -> Metric:
    """What a table of one task compares, by its columns."""
    return task_in(columns).headline


def __getattr__(name: str) -> object:
    for task in TASKS.values():
        if task.module.endswith(f":{name}"):
            return task.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

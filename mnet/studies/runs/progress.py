"""What a run reports while it trains, and the two ways in which it can end early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    steps: int
    value: float
    """Recent mean of `metric` on training batches."""
    metric: str = "loss"
    """The last metric that the task computes in a step: for classification top1, in percent."""


Report = Callable[[Progress], object]
"""Called with the progress about once a second. A true return value asks the run to stop at a checkpoint."""


def ignore_progress(progress: Progress) -> None:
    """A `Report` that does nothing."""


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


class Stopped(RuntimeError):
    """The run was asked to stop. Its checkpoint is written."""

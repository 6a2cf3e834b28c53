"""What a run reports while it trains, and the two ways in which it ends early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int
    steps: int
    value: float
    """Recent mean of `metric` on training batches."""
    metric: str = "loss"
    """The last metric that the task computes in a step: of classification top1, in percent."""


Report = Callable[[Progress], object]
"""Called with the progress about once a second. A true answer asks the run to stop where it can be resumed."""


def ignore_progress(progress: Progress) -> None:
    """A `Report` that does nothing."""


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


class Stopped(RuntimeError):
    """The run was asked to stop. Its checkpoint is written."""

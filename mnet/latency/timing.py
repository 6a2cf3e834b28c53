"""Timers: how long work takes on the CPU or in a GPU's queue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import repeat

import torch

Work = Callable[[], object]
Sample = Callable[[], float]
"""Does the work once and returns the seconds it took."""
Timer = Callable[[Work, int], float]
"""Runs work a given number of times and returns the seconds it took in total."""


def timed(work: Work, *, calls: int = 1, device: str = "cpu") -> Sample:
    """A sample of `work`: seconds per call, the mean of `calls` in a row, GPU work included."""
    timer = timer_for(device)
    return lambda: timer(work, calls) / calls


def timer_for(device: str) -> Timer:
    """The timer for work on a device: events on a GPU's queue, else the processor's clock."""
    return _gpu_seconds if device.startswith("cuda") else _cpu_seconds


def _cpu_seconds(work: Work, calls: int) -> float:
    """Nothing but `work` allocates or looks up names between the two clock readings."""
    times, now = repeat(None, calls), time.perf_counter
    start = now()
    for _ in times:
        work()
    return now() - start


def _gpu_seconds(work: Work, calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def synchronise(device: str) -> None:
    """Wait for the GPU, if `device` is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def calls_for(work: Work, seconds: float, timer: Timer) -> int:
    """How many calls of `work` in a row take at least `seconds`.

    The shortest of three tries counts: a disturbance makes the work look longer.
    """
    calls = 1
    while (spent := min(timer(work, calls) for _ in range(3))) < seconds:
        calls = math.ceil(calls * min(10.0, 1.2 * seconds / max(spent, 1e-9)))
    return calls

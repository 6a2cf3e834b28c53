"""What an engine reports about its jobs: one class per event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import Result


@dataclass(frozen=True)
class Started:
    """An attempt at the job has begun."""

    job: Job


@dataclass(frozen=True)
class Progressed:
    """The job is training, and this is its progress."""

    job: Job
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """The job's files are in its folder."""

    job: Job
    result: Result


@dataclass(frozen=True)
class Failed:
    """The job will not be tried again; `failure.json` in its folder has the reason and the traceback."""

    job: Job
    reason: str


@dataclass(frozen=True)
class Locked:
    """Another process trains this run. The engine tries again until it is free or finished."""

    job: Job


@dataclass(frozen=True)
class Stalled:
    """The job has not reported anything for `seconds`."""

    job: Job
    seconds: float


@dataclass(frozen=True)
class Retrying:
    """An attempt ran out of memory, or was lost with its machine. Another one follows."""

    job: Job
    reason: str


Event = Started | Progressed | Finished | Failed | Locked | Stalled | Retrying
OnEvent = Callable[[Event], object]

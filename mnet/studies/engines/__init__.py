"""Engines: who runs the trials of a study. Local processes, a Ray cluster, or Slurm array jobs.

An engine takes jobs and tells events; what is trained, where it is written and what is finished is not its business.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mnet.errors import unknown
from mnet.studies.runs.job import Job

EventKind = Literal["started", "progress", "finished", "failed", "locked", "stalled", "retrying"]


@dataclass(frozen=True)
class Event:
    """What an engine says of a job.

    started; progress (a `run.Progress`); finished (its result); failed (the reason); locked (another process
    trains this run: its result is waited for); stalled (no sign of life for so many seconds); retrying (why it is
    tried once more).
    """

    kind: EventKind
    job: Job
    content: object = None


Tell = Callable[[Event], object]


ENGINES = ("local", "ray", "slurm")


class Engine(Protocol):
    """Runs jobs, in their order as places become free."""

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """Returns when every job has been told as `finished` or `failed`; a failed one does not stop the others.

        Raises:
            ConfigError: The engine is not installed, or does not answer.
        """


def make_engine(name: str, **settings: object) -> Engine:
    """The engine of that name; its settings are the fields of its class.

    Raises:
        ConfigError: Unknown, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    module = importlib.import_module(f"mnet.studies.engines.{name}")
    engine: Engine = getattr(module, f"{name.capitalize()}Engine")(**settings)
    return engine

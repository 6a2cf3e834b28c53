"""Engines: who runs the trials of a study. Local processes, a Ray cluster, or Slurm array jobs.

An engine takes jobs and tells events; what is trained, where it is written and what is finished is not its business.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mnet.errors import unknown
from mnet.studies.runs.store import run_folder
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile


@dataclass(frozen=True)
class Job:
    """A trial, and the study whose folder it writes to."""

    trial: Trial
    root: Path
    """The results folder."""
    study: str
    pack_size: int = 1
    """Seeds of its cell that are trained as one network, at most."""
    compile: Compile = "off"
    """How its training steps are compiled; int8 runs, which are graphs already, are not."""

    @property
    def run_id(self) -> str:
        return self.trial.run_id

    @property
    def folder(self) -> Path:
        return run_folder(self.root, self.study, self.run_id)


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

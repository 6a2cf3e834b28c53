"""Engines run the trials of a study: in local processes, on a Ray cluster, or as Slurm array jobs.

An engine takes jobs and reports events. `mnet.studies.runs` decides what is trained, where files are written and what
is finished.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

from mnet.errors import unknown
from mnet.studies.engines.events import OnEvent
from mnet.studies.runs.job import Job

ENGINES = ("local", "ray", "slurm")


class Engine(Protocol):
    """Runs jobs in order, as workers become free."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """Return when every job has been reported as `Finished` or `Failed`; a failed job does not stop the others.

        Raises:
            ConfigError: The engine is not installed, or does not answer.
        """


def make_engine(name: str, **settings: object) -> Engine:
    """The engine of that name; its settings are the fields of its class.

    Raises:
        ConfigError: The engine is unknown, or refuses its settings.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    module = importlib.import_module(f"mnet.studies.engines.{name}")
    engine: Engine = getattr(module, f"{name.capitalize()}Engine")(**settings)
    return engine

"""An engine that trains nothing: the result of a run is a function of its network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mnet.files import write_json, write_torch
from mnet.models.spec import Network
from mnet.studies.engines.events import Failed, Finished, OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import RESULT, WEIGHTS, write_config


@dataclass
class SimulatedEngine:
    """Writes the files of a run, with the accuracy that a function of its network returns; negative = a failed run."""

    accuracy: Callable[[Network], float]
    stop_after: int | None = None
    """Number of jobs after which it raises KeyboardInterrupt."""
    jobs: list[Job] = field(default_factory=list)
    """The jobs it has run."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        for job in jobs:
            if len(self.jobs) == self.stop_after:
                raise KeyboardInterrupt
            self.jobs.append(job)
            accuracy = self.accuracy(job.trial.network(10, 1))
            if accuracy < 0:
                on_event(Failed(job, "diverged"))
                continue
            write_config(job.trial, job.folder, None)
            write_torch(job.folder / WEIGHTS, {})
            result = {"val_top1": accuracy, "format": 2}
            write_json(job.folder / RESULT, result)
            on_event(Finished(job, result))

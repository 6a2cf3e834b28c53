"""An engine that knows what training would find, and takes no time for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mnet.files import write_json, write_torch
from mnet.models.spec import Network
from mnet.studies.engines.events import Failed, Finished, OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import RESULT, WEIGHTS, write_config


@dataclass
class TaughtEngine:
    """Leaves what a run would leave, with the accuracy that a function of its network says."""

    accuracy: Callable[[Network], float]
    stop_after: int | None = None
    """Jobs, after which Ctrl-C comes."""
    ran: list[Job] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        for job in jobs:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(job)
            network = job.trial.network(10, 1)
            found = self.accuracy(network)
            if found < 0:
                on_event(Failed(job, "diverged"))
                continue
            write_config(job.trial, job.folder, None)
            write_torch(job.folder / WEIGHTS, {})
            result = {"val_top1": found, "format": 2}
            write_json(job.folder / RESULT, result)
            on_event(Finished(job, result))

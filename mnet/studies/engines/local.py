"""The local engine: trials in parallel in warm worker processes, one thread each on a CPU. Seeds of a cell train
together, as one network, if that is faster.

Torch and Lightning are imported once, by the server that workers are forked from. A data set is read once, into memory
that all workers share. As many trials run as there are cores and memory for.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from mnet.resources import cores, free_memory, free_shared_memory
from mnet.studies.engines.attempt import LOCKED_SECONDS, RunSettings
from mnet.studies.engines.estimate import pack_bytes
from mnet.studies.engines.events import OnEvent
from mnet.studies.engines.packing import packs
from mnet.studies.engines.session import Attempt, Session, Update
from mnet.studies.engines.worker import SharedData, Worker, WorkerSettings, interrupts_held
from mnet.studies.runs.job import Job

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0
"""Time for running trials to write a checkpoint when the engine is interrupted."""
MEMORY_SHARE = 0.85
"""Share of the free memory that trials may use, by estimate."""
TRIALS_PER_GPU = 3
"""A MobileNet on small images leaves most of a GPU idle."""


def default_workers() -> int:
    """One for each core that this process may use; with GPUs, `TRIALS_PER_GPU` for each."""
    import torch

    if torch.cuda.is_available():
        return TRIALS_PER_GPU * torch.cuda.device_count()
    return cores()


@dataclass(frozen=True)
class LocalEngine(RunSettings):
    """Runs jobs in processes on this machine."""

    workers: int | None = None
    """Trials that run at the same time; None = `default_workers()`."""
    threads: int = 1
    """Threads of each worker."""
    data: SharedData = field(default_factory=dict)
    """Data sets already read, to be shared by the workers."""
    memory: int | None = None
    """Bytes that all trials together may take; None = `MEMORY_SHARE` of the free memory."""
    stalled_s: float = 60.0
    """Seconds without a report after which a trial is reported as stalled."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """As `Engine.run`. A trial that ran out of memory next to others is retried once, alone."""
        if jobs:
            backend = LocalBackend(self, len(packs(jobs)))
            Session(backend, on_event, POLL_SECONDS, LOCKED_SECONDS, self.stalled_s).run(jobs)


class LocalBackend:
    """Worker processes, and the memory that their jobs are estimated to take."""

    lost = "its process was lost"

    def __init__(self, engine: LocalEngine, attempts: int) -> None:
        self.memory = engine.memory or int(MEMORY_SHARE * free_memory())
        count = min(engine.workers or default_workers(), attempts)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mnet.studies.engines.preload"])
        settings = WorkerSettings(engine.threads, engine.options, engine.run_job)
        data = _share(engine.data)
        with interrupts_held():  # Ctrl-C is for this process to handle, not for the workers
            self.workers = [Worker(context, number, settings, data) for number in range(count)]

    @property
    def isolated(self) -> bool:
        return len(self.workers) == 1

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.jobs]

    def submit(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """As `Backend.submit`. A later attempt may overtake one that has to wait for memory."""
        submitted = []
        for attempt in attempts:
            idle = next((worker for worker in self.workers if not worker.jobs), None)
            if idle is None:
                break
            if self._has_room(attempt):
                idle.submit(attempt)
                submitted.append(attempt)
        return submitted

    def _has_room(self, attempt: Attempt) -> bool:
        busy = self._busy
        if not busy:
            return True
        if attempt.alone or any(worker.attempt.alone for worker in busy):
            return False
        return sum(_bytes(jobs) for jobs in (attempt.jobs, *(worker.jobs for worker in busy))) <= self.memory

    def poll(self, timeout_s: float) -> list[Update]:
        """As `Backend.poll`."""
        ready = wait([worker.connection for worker in self._busy], timeout_s)
        return [update for worker in self._busy if worker.connection in ready for update in worker.receive()]

    def stop(self) -> None:
        """As `Backend.stop`."""
        with interrupts_held():
            for worker in self._busy:
                worker.ask_to_stop()
            deadline = time.monotonic() + STOP_SECONDS
            while self._busy and (remaining := deadline - time.monotonic()) > 0:
                self.poll(remaining)
            for worker in self.workers:
                worker.connection.close()
            for worker in self.workers:
                worker.end()


def _bytes(jobs: Sequence[Job]) -> int:
    return pack_bytes([job.trial for job in jobs])


def _share(data: SharedData) -> SharedData:
    """Put the data sets that fit into shared memory; workers read the rest themselves, and map images on disk."""
    from mnet.data.decoded import DecodedImages

    shared: dict[tuple[object, ...], DecodedImages] = {}
    for key, dataset in data.items():
        room = free_shared_memory()
        if isinstance(dataset, DecodedImages) and (room is None or room > 1.5 * dataset.shared_bytes):
            dataset.share()
            shared[key] = dataset
    return shared

"""The local engine: trials side by side in warm worker processes, one thread each on a CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mnet.studies.trial import Trial


@dataclass(frozen=True)
class Job:
    """A trial and the folder it writes to."""

    trial: Trial
    folder: Path


@dataclass(frozen=True)
class Event:
    """What a worker says of a job: `started`, `progress` (a `run.Progress`), `finished` (its result) or `failed`
    (the reason)."""

    kind: str
    job: Job
    content: object = None


def default_workers() -> int:
    """One a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Iterable[Job],
    tell: Callable[[Event], object],
    *,
    workers: int | None = None,
    threads: int = 1,
    trainer: Mapping[str, object] | None = None,
) -> None:
    """Run all jobs, in their order as workers become free. A job that fails, or whose worker dies, is told as
    `failed`; the others go on.

    Args:
        jobs: What to run.
        tell: Called in this process with every event.
        workers: Processes; None = one a core.
        threads: Of each worker.
        trainer: Arguments of Lightning's Trainer.
    """
    waiting = deque(jobs)
    count = min(workers or default_workers(), len(waiting))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnet.studies.run"])  # torch and Lightning are imported once, not once a worker
    with interrupts_held():  # Ctrl-C is for this process to handle, not for the workers
        team = [Worker(context, threads, dict(trainer or {})) for _ in range(count)]
    try:
        for worker in team:
            if waiting:
                worker.give(waiting.popleft())
        while busy := [worker for worker in team if worker.job is not None]:
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection not in ready:
                    continue
                event = worker.hear()
                tell(event)
                if event.kind in ("finished", "failed"):
                    worker.job = None
                    if waiting:
                        worker.give(waiting.popleft())
    finally:
        for worker in team:
            worker.stop()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end of the block; processes started in it never see one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
    """A process that runs one job after another, and is replaced when it dies."""

    def __init__(
        self, context: multiprocessing.context.ForkServerContext, threads: int, trainer: dict[str, object]
    ) -> None:
        self.context, self.threads, self.trainer = context, threads, trainer
        self.job: Job | None = None
        self.start()

    def start(self) -> None:
        self.connection, theirs = self.context.Pipe()
        arguments = (theirs, self.threads, self.trainer)
        self.process: BaseProcess = self.context.Process(target=work, args=arguments)  # may itself start loaders
        self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        if not self.process.is_alive():
            self.start()
        self.job = job
        self.connection.send(job)

    def hear(self) -> Event:
        assert self.job is not None
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Event("failed", self.job, f"its process died (exit code {self.process.exitcode})")
        return Event(kind, self.job, content)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def work(connection: Connection, threads: int, trainer: dict[str, object]) -> None:
    """The body of a worker process."""
    import torch

    from mnet.studies.run import run_trial

    torch.set_num_threads(threads)
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(("started", None))
        try:
            result = run_trial(
                job.trial, job.folder, lambda progress: connection.send(("progress", progress)), trainer=trainer
            )
        except BrokenPipeError:
            return  # the parent is gone
        except Exception as error:  # the study goes on without this trial
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / "error.txt").write_text(traceback.format_exc())
            connection.send(("failed", f"{type(error).__name__}: {error}"))
        else:
            connection.send(("finished", result))

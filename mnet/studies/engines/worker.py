"""A worker process of the local engine, which runs one job or pack after another."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from mnet.studies.engines.attempt import try_job
from mnet.studies.engines.session import Attempt, Began, Update
from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions
from mnet.studies.runs.progress import Progress, Report

if TYPE_CHECKING:
    from mnet.data import ImageData

SharedData = Mapping[tuple[object, ...], "ImageData"]
"""Data sets that all workers share, by `Trial.data_key`."""

STOP = "stop"
END_SECONDS = 2.0
"""Time for an idle process to end by itself."""
PARENT_GONE = (BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True)
class WorkerSettings:
    """How every process of an engine runs its jobs."""

    threads: int
    options: RunOptions
    run_job: RunJob | None


class Worker:
    """The engine's side of a process. A process that died is replaced when the next job arrives."""

    def __init__(self, context: ForkServerContext, number: int, settings: WorkerSettings, data: SharedData) -> None:
        self.context, self.number, self.settings, self.data = context, number, settings, data
        self.attempt = Attempt(())
        self.jobs: list[Job] = []
        """Jobs of the attempt that have not ended."""
        self._start()

    def _start(self) -> None:
        self.connection, child = self.context.Pipe()
        self.process: BaseProcess = self.context.Process(target=_work, args=(child, self.number, self.settings))
        self.process.start()  # not a daemon: it may start the processes of data loaders
        child.close()
        self.connection.send(self.data)

    def submit(self, attempt: Attempt) -> None:
        """Begin an attempt."""
        if not self.process.is_alive():
            self.connection.close()
            with interrupts_held():
                self._start()
        self.attempt, self.jobs = attempt, list(attempt.jobs)
        self.connection.send(attempt.jobs)

    def receive(self) -> list[Update]:
        """The next message, once `connection` is ready; the end of all its jobs if the process died."""
        try:
            number, content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            killed = code == -signal.SIGKILL  # what the system does when memory runs out
            reason = f"its process died (exit code {code})"
            outcome = Outcome("out_of_memory" if killed else "failed", reason=reason)
            lost, self.jobs = self.jobs, []
            return [Update(job, outcome) for job in lost]
        job = self.attempt.jobs[number]
        if isinstance(content, Outcome):
            self.jobs.remove(job)
        return [Update(job, content)]

    def ask_to_stop(self) -> None:
        """Let its jobs write a checkpoint and end."""
        try:
            self.connection.send(STOP)
        except OSError:
            self.jobs = []

    def end(self) -> None:
        """End the process after its connection was closed; an idle one ends by itself and leaves nothing behind."""
        self.process.join(0 if self.jobs else END_SECONDS)
        self.process.terminate()
        self.process.join()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; processes started in it never receive one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, number: int, settings: WorkerSettings) -> None:
    """The body of the process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to every process; the parent handles it
    torch.set_num_threads(settings.threads)
    options: RunOptions = {**settings.options}
    if torch.cuda.is_available():
        device = number % torch.cuda.device_count()
        torch.cuda.set_device(device)
        options["trainer"] = {"devices": [device], **(options.get("trainer") or {})}
    try:
        data: SharedData = connection.recv()
        while True:
            message = connection.recv()
            if message != STOP:  # STOP may arrive when its jobs have just ended
                _run(connection, message, settings.run_job, {**options, "data": data.get(message[0].trial.data_key)})
    except (EOFError, *PARENT_GONE):
        return


def _run(connection: Connection, jobs: tuple[Job, ...], run_job: RunJob | None, options: RunOptions) -> None:
    def send_to_all(content: Began | Progress) -> None:
        for number in range(len(jobs)):
            connection.send((number, content))

    def report(progress: Progress) -> bool:
        send_to_all(progress)
        return connection.poll()  # while jobs run, only STOP can arrive

    send_to_all(Began())
    for job, outcome in _outcomes(jobs, run_job, report, options):
        connection.send((jobs.index(job), outcome))


def _outcomes(
    jobs: Sequence[Job], run_job: RunJob | None, report: Report, options: RunOptions
) -> Iterator[tuple[Job, Outcome]]:
    if run_job is not None or len(jobs) == 1:
        for job in jobs:
            yield job, try_job(run_job, job, report, options)
        return
    from mnet.studies.runs.packs import run_jobs

    yield from run_jobs(jobs, report, **options)

"""The local engine: trials side by side in warm worker processes, one thread each on a CPU; seeds of a cell together,
as one network, where that is faster.

Torch and Lightning are imported once, by the server that workers are forked from; a data set is read once, and its
images lie in memory that all workers share; as many trials run as there are cores and memory for.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mnet.studies.engines import Event, Tell
from mnet.studies.engines.attempt import attempt
from mnet.studies.engines.estimate import pack_bytes
from mnet.studies.engines.packing import packs
from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions
from mnet.studies.runs.store import write_failure

if TYPE_CHECKING:
    from mnet.data import ImageData
    from mnet.studies.runs.progress import Report

DataKey = tuple[str, Path, int]

ON_THE_WAY = ("started", "progress")
PARENT_GONE = (BrokenPipeError, ConnectionResetError)
POLL_SECONDS = 1.0
LOCKED_SECONDS = 2.0
STOP_SECONDS = 20.0
END_SECONDS = 2.0
STALLED_SECONDS = 60.0
MEMORY_SHARE = 0.85
"""Of the free memory, what trials may plan to use."""


def default_workers() -> int:
    """One a core that this process may use; with GPUs, `TRIALS_PER_GPU` a device."""
    import torch

    if torch.cuda.is_available():
        return TRIALS_PER_GPU * torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


TRIALS_PER_GPU = 3
"""A MobileNet on small images leaves most of a GPU idle."""


@dataclass
class LocalEngine:
    """Runs jobs in processes of this machine."""

    workers: int | None = None
    """Trials side by side; None = one a core, or `TRIALS_PER_GPU` a GPU."""
    threads: int = 1
    """Of each worker."""
    trainer: Mapping[str, object] = field(default_factory=dict)
    """Arguments of Lightning's Trainer."""
    checkpoint_s: float = 30.0
    data: Sequence[ImageData] = ()
    """Data sets already read, to be shared by the workers."""
    memory: int | None = None
    """Bytes that all trials together may take; None = `MEMORY_SHARE` of what is free."""
    stalled_s: float = STALLED_SECONDS
    """Without a sign of life for so long, a trial is reported as `stalled`."""
    run_job: RunJob | None = None
    """None = `run.run_job`. A function of a module, called as that one is."""

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """As `Engine.run`. A trial that ran out of memory beside others is tried once more, alone."""
        if not jobs:
            return
        Session(self, jobs, tell).run()


class Session:
    """One call of `LocalEngine.run`: who works on what, and what waits."""

    def __init__(self, engine: LocalEngine, jobs: Sequence[Job], tell: Tell) -> None:
        self.tell = tell
        self.waiting = deque([(job,) for job in jobs] if engine.run_job else packs(jobs))  # that takes one at a time
        self.alone: deque[Job] = deque()
        """Tried once more, with nothing beside them."""
        self.locked: dict[Job, float] = {}
        """Job -> when to look again."""
        self.memory = engine.memory or int(MEMORY_SHARE * free_memory())
        self.stalled_s = engine.stalled_s
        self.single = False
        """Whether a job that has to be alone is running."""
        count = min(engine.workers or default_workers(), len(self.waiting))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mnet.studies.runs.run"])
        data = shared(engine.data)
        with interrupts_held():  # Ctrl-C is for this process to handle, not for the workers
            self.team = [Worker(context, number, engine, data) for number in range(count)]

    def run(self) -> None:
        try:
            self.fill()
            while self.busy or self.waiting or self.alone or self.locked:
                ready = wait([worker.connection for worker in self.busy], POLL_SECONDS) if self.busy else []
                if not self.busy:
                    time.sleep(min(POLL_SECONDS, LOCKED_SECONDS))
                for worker in self.busy:
                    if worker.connection in ready:
                        for event in worker.hear():
                            self.hear(worker, event)
                    else:
                        self.notice_silence(worker)
                self.fill()
        except BaseException:  # Ctrl-C above all: runs stop where they can go on
            self.stop(patience_s=STOP_SECONDS)
            raise
        self.stop(patience_s=0)

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.team if worker.jobs]

    def fill(self) -> None:
        """Give idle workers what fits."""
        for worker in self.team:
            if not worker.jobs and not self.single and (jobs := self.next_jobs()) is not None:
                worker.give(jobs)

    def next_jobs(self) -> Sequence[Job] | None:
        now = time.monotonic()
        used = sum(taken(worker.jobs) for worker in self.busy)
        for jobs in list(self.waiting):
            if not used or used + taken(jobs) <= self.memory:
                self.waiting.remove(jobs)
                return jobs
        if self.waiting:
            return None
        if due := [job for job, when in self.locked.items() if now >= when]:
            jobs = packs(due)[0]
            for job in jobs:
                del self.locked[job]
            return jobs
        if self.alone and not self.busy:
            self.single = True
            return [self.alone.popleft()]
        return None

    def hear(self, worker: Worker, event: Event) -> None:
        job = event.job
        if event.kind in ON_THE_WAY:
            if job in worker.jobs:  # of a pack, one is finished while others are tested
                self.tell(event)
            return
        worker.jobs.remove(job)
        was_alone = (self.single or len(self.team) == 1) and len(worker.given) == 1
        self.single = False
        if event.kind == "locked":
            self.locked[job] = time.monotonic() + LOCKED_SECONDS
        elif event.kind == "retrying" and was_alone:
            event = Event("failed", job, event.content)
        elif event.kind == "retrying":
            self.alone.append(job)
        if event.kind == "failed":
            write_failure(job.folder, str(event.content), {"trace": worker.trace})
        self.tell(event)

    def notice_silence(self, worker: Worker) -> None:
        quiet = time.monotonic() - worker.heard
        if quiet >= self.stalled_s * worker.warned:
            worker.warned *= 2
            for job in worker.jobs:
                self.tell(Event("stalled", job, quiet))

    def stop(self, patience_s: float) -> None:
        """Ask every busy worker to write its checkpoint, wait for that, then end all."""
        with interrupts_held():
            for worker in self.busy if patience_s else ():
                worker.ask_to_stop()
            end = time.monotonic() + patience_s
            while (busy := self.busy) and (left := end - time.monotonic()) > 0:
                for connection in wait([worker.connection for worker in busy], left):
                    worker = next(worker for worker in busy if worker.connection is connection)
                    for event in worker.hear():
                        if event.kind not in ON_THE_WAY:
                            worker.jobs.remove(event.job)
            for worker in self.team:
                worker.connection.close()  # an idle one ends by that, and leaves nothing behind
            for worker in self.team:
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
    """A process that runs one job or pack after another, and is replaced when it dies."""

    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        number: int,
        engine: LocalEngine,
        data: Mapping[DataKey, ImageData],
    ) -> None:
        self.context, self.number, self.engine, self.data = context, number, engine, data
        self.given: Sequence[Job] = ()
        self.jobs: list[Job] = []
        """Of those given, which are not done."""
        self.trace = ""
        self.start()

    def start(self) -> None:
        self.connection, theirs = self.context.Pipe()
        engine = self.engine
        arguments = (theirs, self.number, engine.threads, dict(engine.trainer), engine.checkpoint_s, engine.run_job)
        self.process: BaseProcess = self.context.Process(target=work, args=arguments)  # may itself start loaders
        self.process.start()
        theirs.close()
        self.connection.send(self.data)

    def give(self, jobs: Sequence[Job]) -> None:
        if not self.process.is_alive():
            self.connection.close()
            with interrupts_held():
                self.start()
        self.given, self.jobs = tuple(jobs), list(jobs)
        self.heard, self.warned = time.monotonic(), 1
        self.connection.send(self.given)

    def hear(self) -> list[Event]:
        self.heard, self.warned = time.monotonic(), 1
        try:
            number, (kind, content, self.trace) = cast(tuple[int, Outcome], self.connection.recv())
            about = [self.given[number]]
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            killed = code == -signal.SIGKILL  # the system's way where memory ends
            kind, content, self.trace = Outcome(
                "retrying" if killed else "failed", f"its process died (exit code {code})"
            )
            about = list(self.jobs)
        return [Event(kind, job, content) for job in about]

    def ask_to_stop(self) -> None:
        try:
            self.connection.send("stop")
        except OSError:
            self.jobs = []

    def stop(self) -> None:
        self.process.join(0 if self.jobs else END_SECONDS)
        self.process.terminate()
        self.process.join()


def work(
    connection: Connection,
    number: int,
    threads: int,
    trainer: dict[str, object],
    checkpoint_s: float,
    run_job: RunJob | None,
) -> None:
    """The body of a worker process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to every process; the parent answers it
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
        trainer = {"devices": [number % torch.cuda.device_count()], **trainer}
    options: RunOptions = {"trainer": trainer, "checkpoint_s": checkpoint_s}
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        if isinstance(message, dict):
            data: dict[DataKey, ImageData] = message
        elif isinstance(message, tuple):
            jobs: tuple[Job, ...] = message
            given: RunOptions = {**options, "data": data.get(data_key(jobs[0]))}
            try:
                say(connection, range(len(jobs)), Outcome("started", None))
                for job, outcome in outcomes(run_job, jobs, reporter(connection, len(jobs)), given):
                    say(connection, [jobs.index(job)], outcome)
            except PARENT_GONE:
                return


def outcomes(
    run_job: RunJob | None, jobs: Sequence[Job], report: Report, options: RunOptions
) -> Iterator[tuple[Job, Outcome]]:
    if len(jobs) == 1:
        yield jobs[0], attempt(run_job, jobs[0], report, options, through=PARENT_GONE)
        return
    from mnet.studies.runs.packs import run_jobs

    yield from run_jobs(jobs, report, **options)


def say(connection: Connection, numbers: Iterable[int], outcome: Outcome) -> None:
    """Of jobs, by their place in what was given."""
    for number in numbers:
        connection.send((number, outcome))


def reporter(connection: Connection, count: int) -> Report:
    """Tells progress, and answers whether the parent asked to stop."""

    def report(progress: object) -> bool:
        say(connection, range(count), Outcome("progress", progress))
        return connection.poll()  # while jobs run, "stop" is all that comes

    return report


def taken(jobs: Sequence[Job]) -> int:
    """Bytes of jobs that are trained together."""
    return pack_bytes([job.trial for job in jobs])


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container where that has a limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return free


def data_key(job: Job) -> DataKey:
    from mnet.data import DATASETS

    trial = job.trial
    return trial.dataset, trial.data_dir, trial.resolution or DATASETS[trial.dataset].native_resolution


def shared(data: Sequence[ImageData]) -> dict[DataKey, ImageData]:
    """The data sets that can be shared, by what trials call them; the workers read the others themselves."""
    from mnet.data.in_memory import InMemoryImages

    found: dict[DataKey, ImageData] = {}
    for one in data:
        if isinstance(one, InMemoryImages):
            memory = Path("/dev/shm")  # in a container this can be as small as 64 MB  # noqa: S108
            if memory.exists() and shutil.disk_usage(memory).free < 1.5 * one.nbytes:
                continue
            one.share()
            found[one.name, one.data_dir, one.resolution] = one
    return found

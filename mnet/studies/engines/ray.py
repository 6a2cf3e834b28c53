"""The Ray engine: each trial is a remote task on an existing Ray cluster.

Every node needs the same versions of mnet and of the data that trials read. Results go to a folder that all nodes
share, or through an fsspec URL (`remote`). Ray places the trials, fractions of a GPU included, and restarts those of a
lost node, which resume from their last checkpoint.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mnet.errors import ConfigError
from mnet.studies.engines.attempt import RunSettings, try_job
from mnet.studies.engines.events import OnEvent
from mnet.studies.engines.ray_cluster import connected, import_ray
from mnet.studies.engines.remote import Storage, Synced
from mnet.studies.engines.session import Attempt, Began, Session, Update
from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions, describe
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import read_result

if TYPE_CHECKING:
    from ray.util.queue import Queue

POLL_SECONDS = 0.5
LOCKED_SECONDS = 5.0
STOP_SECONDS = 20.0
"""Time for running trials to write a checkpoint when the engine is interrupted."""
VISIBLE_SECONDS = 15.0
"""Time for a network folder to show a file that another node wrote."""


@dataclass(frozen=True)
class RayEngine(RunSettings):
    """Runs jobs on a Ray cluster.

    Raises:
        ConfigError: Resources that Ray cannot give, or a storage that cannot be opened.
    """

    address: str | None = None
    """host:port of the cluster, or ray://host:port of its client server; None = the RAY_ADDRESS environment variable,
    or the cluster on this machine."""
    cpus: float = 1
    """CPUs per trial, and the number of its threads."""
    gpus: float = 0
    """GPUs per trial; 0.25 puts four trials on a GPU."""
    retries: int = 3
    """How many times a trial may lose its node or process."""
    storage: str | None = None
    """fsspec URL; None = all nodes share the results folder."""

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"cpus must be positive, not {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(f"gpus must be a fraction of one or a whole number, not {self.gpus}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, not {self.retries}")
        if self.storage is not None:
            Storage(self.storage)

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """As `Engine.run`. A trial that ran out of memory is retried once, with a whole GPU.

        Raises:
            ConfigError: Ray is not installed, does not answer at the address, or has no node that is large enough.
        """
        if not jobs:
            return
        with connected(self.address):
            self._check_size()
            Session(RayBackend(self), on_event, POLL_SECONDS, LOCKED_SECONDS).run(jobs)

    def _check_size(self) -> None:
        nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            sizes = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a trial asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs; the Ray cluster's nodes have {sizes}"
            )


class RayBackend:
    """Tasks on a cluster, and the queue through which they report."""

    isolated = False
    lost = "its node or its process was lost"

    def __init__(self, engine: RayEngine) -> None:
        self.ray = import_ray()
        self.engine = engine
        self.storage = None if engine.storage is None else Storage(engine.storage)
        self.queue = _make_queue()
        self.task = self.ray.remote(_work)
        self.submitted: list[Job] = []
        """The job of each task, by the number under which it reports."""
        self.pending: dict[Any, int] = {}
        """Ray's reference to a task's outcome -> its number."""
        self.started: set[int] = set()

    def submit(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """As `Backend.submit`; Ray itself lets tasks wait for a node."""
        engine = self.engine
        for attempt in attempts:
            gpus = math.ceil(engine.gpus) if attempt.alone else engine.gpus
            task = self.task.options(num_cpus=engine.cpus, num_gpus=gpus, max_retries=engine.retries)
            for job in attempt.jobs:
                number = len(self.submitted)
                self.submitted.append(job)
                self.pending[task.remote(_absolute(job), self._order(number, gpus))] = number
        return list(attempts)

    def _order(self, number: int, gpus: float) -> _Order:
        engine = self.engine
        run_job = engine.run_job if engine.storage is None else Synced(engine.storage, engine.run_job)
        return _Order(number, self.queue, max(1, math.floor(engine.cpus)), gpus, engine.options, run_job)

    def poll(self, timeout_s: float) -> list[Update]:
        """As `Backend.poll`."""
        ended, _ = self.ray.wait(list(self.pending), timeout=timeout_s)
        updates = self._reports()
        for reference in ended:
            job = self.submitted[self.pending.pop(reference)]
            updates.append(Update(job, self._outcome(reference, job)))
        return updates

    def _reports(self) -> list[Update]:
        reports: list[tuple[int, dict[str, Any] | None]] = []
        with suppress(self.ray.exceptions.RayError):  # without the queue, only progress is lost
            reports = self.queue.get_nowait_batch(self.queue.qsize())
        self.started |= {number for number, _ in reports}
        running = set(self.pending.values())
        return [
            Update(self.submitted[number], Began() if progress is None else Progress(**progress))
            for number, progress in reports
            if number in running
        ]

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        """How a task ended, after fetching its files into the results folder."""
        try:
            outcome: Outcome = self.ray.get(reference)
            if outcome.kind == "finished":
                self._fetch(job)
        except self.ray.exceptions.RayTaskError as error:  # before the job began: mnet is missing there, or differs
            reason = f"its node cannot run it: {str(error).strip().splitlines()[-1]}"
            return Outcome("failed", reason=reason, trace=str(error))
        except self.ray.exceptions.RayError as error:
            reason = f"its node or its process was lost too often: {describe(error)}"
            return Outcome("failed", reason=reason, trace=str(error))
        except Exception as error:  # each storage has its own errors
            return Outcome("failed", reason=f"finished, but its files cannot be fetched: {describe(error)}")
        return outcome

    def _fetch(self, job: Job) -> None:
        if self.storage is not None:
            self.storage.pull(job)
        deadline = time.monotonic() + VISIBLE_SECONDS
        while read_result(job.folder) is None:
            if time.monotonic() > deadline:
                raise FileNotFoundError(f"not all nodes share {job.folder}; give a folder that they share, or a URL")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """As `Backend.stop`."""
        self._reports()
        with suppress(self.ray.exceptions.RayError):
            began = [reference for reference, number in self.pending.items() if number in self.started]
            waiting = [reference for reference in self.pending if reference not in began]
            for references in (waiting, began):  # in this order, or a waiting task takes the place of one that stops
                for reference in references:
                    self.ray.cancel(reference, recursive=False)
                if references:
                    self.ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
            self.queue.shutdown(force=True)


def _make_queue() -> Queue:
    """A queue on this process's node. If the process of the queue is lost, it restarts empty. It holds only plain
    values, so that it need not import torch."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(import_ray().get_runtime_context().get_node_id(), soft=True)
    return Queue(actor_options={"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here})


def _absolute(job: Job) -> Job:
    """The same job for a process with another working directory."""
    return replace(job, root=job.root.absolute(), trial=replace(job.trial, data_dir=job.trial.data_dir.resolve()))


@dataclass(frozen=True)
class _Order:
    """What a task needs besides its job."""

    number: int
    queue: Queue
    threads: int
    gpus: float
    options: RunOptions
    run_job: RunJob | None


def _work(job: Job, order: _Order) -> Outcome:
    """The body of a task, on any node."""
    import torch

    torch.set_num_threads(order.threads)
    os.environ["OMP_NUM_THREADS"] = str(order.threads)
    if not order.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them visible to tasks that asked for none
    with _Reporter(order) as report:
        report.send(None)
        if report.stopping:
            return Outcome("failed", reason="stopped before it began")
        return try_job(order.run_job, job, report, order.options)


class _Reporter:
    """Sends progress, and turns Ray's cancellation (an interrupt) into a request to stop at the next checkpoint."""

    def __init__(self, order: _Order) -> None:
        self.order = order
        self.stopping = False

    def __enter__(self) -> _Reporter:
        self._handler = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._handler)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def __call__(self, progress: Progress) -> bool:
        self.send(asdict(progress))
        return self.stopping

    def send(self, content: dict[str, object] | None) -> None:
        """Put progress on the queue; None = the job begins. If the queue is lost, training continues."""
        with suppress(import_ray().exceptions.RayError):
            self.order.queue.put((self.order.number, content))

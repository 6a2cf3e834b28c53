"""The Ray engine: the trials of a study on an existing Ray cluster, one remote task each.

Every node has mnet, and what trials read, installed at the same versions; `ship_code` sends mnet's own source. Results
go to a folder that all nodes share, or through an fsspec URL (`remote`). Ray places the trials, fractions of a GPU
included, and tries those of a lost node again: they go on from their last checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mnet.errors import ConfigError
from mnet.studies.engines import Event, Tell
from mnet.studies.engines.attempt import attempt
from mnet.studies.engines.remote import Storage, Synced
from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions, describe
from mnet.studies.runs.store import read_result, write_failure

if TYPE_CHECKING:
    from mnet.studies.runs.progress import Progress

POLL_SECONDS = 0.5
CONNECT_SECONDS = 30.0
LOCKED_SECONDS = 5.0
BOARD_SECONDS = 5.0
STOP_SECONDS = 20.0
VISIBLE_SECONDS = 15.0
"""A network folder may show a file that another node wrote this much later."""

PROBE = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"


@dataclass(frozen=True)
class RayEngine:
    """Runs jobs on a Ray cluster.

    Raises:
        ConfigError: Resources that Ray cannot give, or a storage that nothing here can open.
    """

    address: str | None = None
    """host:port of the cluster, or ray://host:port of its client server; None = what RAY_ADDRESS says, or the cluster
    of this machine."""
    cpus: float = 1
    """Of each trial, which trains with as many threads."""
    gpus: float = 0
    """Of each trial; 0.25 puts four on a GPU."""
    retries: int = 3
    """Nodes or processes that a trial may lose."""
    storage: str | None = None
    """fsspec URL; None = the results folder is seen by all nodes."""
    trainer: Mapping[str, object] = field(default_factory=dict)
    """Arguments of Lightning's Trainer."""
    checkpoint_s: float = 30.0
    elastic: bool = False
    """Whether nodes may join later: else a trial that fits on no node is an error."""
    ship_code: bool = False
    """Whether nodes use this machine's mnet instead of their own."""
    run_job: RunJob | None = None
    """None = `run.run_job`."""

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"cpus must be positive, not {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(f"gpus must be a fraction of one or a whole number, not {self.gpus}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, not {self.retries}")
        if self.storage is not None:
            Storage(self.storage)

    @property
    def threads(self) -> int:
        return max(1, math.floor(self.cpus))

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """As `Engine.run`. Ctrl-C lets running trials write a checkpoint, and takes back the others.

        Raises:
            ConfigError: Ray is not installed, does not answer at the address, or has no node that is large enough.
        """
        if not jobs:
            return
        ray = import_ray()
        with connected(ray, self):
            if not self.elastic:
                self.check_size(ray)
            Session(ray, self, jobs, tell).run()

    def check_size(self, ray: ModuleType) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            offers = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a trial asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs; the Ray cluster's nodes have {offers}"
            )


def import_ray() -> ModuleType:
    """Ray, silent and without usage reports.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("the ray engine needs Ray: pip install 'mnet[ray]', or make EXTRAS=ray ...") from None
    return ray


@contextmanager
def connected(ray: ModuleType, engine: RayEngine) -> Iterator[None]:
    """A connection to the cluster, unless there is one already."""
    if ray.is_initialized():
        yield
        return
    address = engine.address or os.environ.get("RAY_ADDRESS") or "auto"
    check_address(address)
    import mnet

    code = {"runtime_env": {"py_modules": [str(Path(mnet.__file__).parent)]}} if engine.ship_code else {}
    terminate = signal.getsignal(signal.SIGTERM)
    ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **code)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place, which ends this process at once
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Connect once in another process: where nobody answers, Ray waits for minutes, and cannot be interrupted.

    Raises:
        ConfigError: No cluster answers at that address within `CONNECT_SECONDS`.
    """
    nobody = f"no Ray cluster answers at {address}"
    if address == "auto":
        nobody = "no Ray cluster answers on this machine; RAY_ADDRESS=host:port names another"
    else:
        parts = re.fullmatch(r"(?:ray://)?(?P<host>[^/\s]+):(?P<port>\d+)", address)
        if parts is None:
            raise ConfigError(f"a Ray address is host:port or ray://host:port, not {address!r}")
        try:
            socket.create_connection((parts["host"], int(parts["port"])), CONNECT_SECONDS / 3).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{nobody}: {error}") from None
    try:
        subprocess.run(
            [sys.executable, "-c", PROBE, address],
            timeout=CONNECT_SECONDS * 2 / 3,
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{nobody}: something listens there, but it does not speak Ray's protocol") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ConfigError(f"{nobody}: {reason}") from None


@dataclass(frozen=True)
class Place:
    """What a task is told beside its job."""

    number: int
    board: Any
    """Where it posts its progress."""
    threads: int
    gpus: float
    options: RunOptions
    """Keyword arguments of `run_job`."""
    run_job: RunJob | None


def work(job: Job, place: Place) -> Outcome:
    """The body of a task, on whichever node."""
    import torch

    torch.set_num_threads(place.threads)
    os.environ["OMP_NUM_THREADS"] = str(place.threads)
    if not place.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves them visible to who asked for none
    report = Reporter(place)
    if report.begin():
        return Outcome("failed", "stopped before it began")
    return attempt(place.run_job, job, report, place.options)


class Reporter:
    """Posts progress to the board and does not wait for it: the answer is that to the post before."""

    def __init__(self, place: Place) -> None:
        self.ray = import_ray()
        self.place = place
        self._answer: Any = None

    def begin(self) -> bool:
        """Say that the job begins here.

        Returns:
            Whether the driver is stopping, so that it should not.
        """
        with suppress(self.ray.exceptions.RayError):  # without a board, training goes on
            return bool(self.ray.get(self._post(None), timeout=BOARD_SECONDS))
        return False

    def __call__(self, progress: Progress) -> bool:
        stop = False
        with suppress(self.ray.exceptions.RayError):
            if self._answer is not None:
                if not self.ray.wait([self._answer], timeout=0)[0]:
                    return False
                answer, self._answer = self._answer, None
                stop = bool(self.ray.get(answer))
            self._answer = self._post(progress)
        return stop

    def _post(self, progress: Progress | None) -> Any:
        return self.place.board.post.remote(self.place.number, pickle.dumps(progress))


def make_board(ray: ModuleType) -> Any:
    """A small actor beside the driver that holds what tasks post until it is read. Losing it loses progress only."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Board:  # defined here, it is sent by value: its process need not import torch
        def __init__(self) -> None:
            self.posts: list[tuple[int, bytes]] = []
            self.stopping = False

        def post(self, number: int, content: bytes) -> bool:
            self.posts.append((number, content))
            return self.stopping

        def take(self) -> list[tuple[int, bytes]]:
            posts, self.posts = self.posts, []
            return posts

        def stop(self) -> None:
            self.stopping = True

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


class Session:
    """One call of `RayEngine.run`: what is with Ray, and what waits."""

    def __init__(self, ray: ModuleType, engine: RayEngine, jobs: Sequence[Job], tell: Tell) -> None:
        self.ray, self.engine, self.tell = ray, engine, tell
        self.jobs = [absolute(job) for job in jobs]
        self.given = list(jobs)
        self.storage = None if engine.storage is None else Storage(engine.storage)
        self.board = make_board(ray)
        self.pending: dict[Any, int] = {}
        """What Ray will answer with -> number of the job."""
        self.started: set[int] = set()
        self.retrying: set[int] = set()
        """Tried once more, with a whole GPU."""
        self.locked: dict[int, float] = {}
        """Number of a job -> when to look again."""
        self.task = ray.remote(work)

    def run(self) -> None:
        asked = self.board.take.remote()
        try:
            for number in range(len(self.jobs)):
                self.submit(number)
            while self.pending or self.locked:
                for number, when in list(self.locked.items()):
                    if time.monotonic() >= when:
                        del self.locked[number]
                        self.submit(number)
                if not self.pending:
                    time.sleep(POLL_SECONDS)
                    continue
                ready, _ = self.ray.wait(list(self.pending), timeout=POLL_SECONDS)
                asked = self.listen(asked)
                for answer in ready:
                    self.settle(answer)
        except BaseException:
            self.stop()
            raise

    def submit(self, number: int) -> None:
        engine, gpus = self.engine, self.engine.gpus
        if number in self.retrying and gpus:
            gpus = math.ceil(gpus)
        run_job = engine.run_job if engine.storage is None else Synced(engine.storage, engine.run_job)
        options: RunOptions = {"trainer": dict(engine.trainer), "checkpoint_s": engine.checkpoint_s}
        place = Place(number, self.board, engine.threads, gpus, options, run_job)
        task = self.task.options(num_cpus=engine.cpus, num_gpus=gpus, max_retries=engine.retries)
        self.pending[task.remote(self.jobs[number], place)] = number

    def listen(self, asked: Any) -> Any:
        """Hear what the board has answered, and ask it again."""
        if not self.ray.wait([asked], timeout=0)[0]:
            return asked
        with suppress(self.ray.exceptions.RayError):
            self.hear(self.ray.get(asked))
        return self.board.take.remote()

    def hear(self, posts: Sequence[tuple[int, bytes]]) -> None:
        running = set(self.pending.values())
        for number, content in posts:
            if number not in running:
                continue
            job, progress = self.given[number], pickle.loads(content)  # noqa: S301 - from our own tasks
            if progress is not None:
                self.tell(Event("progress", job, progress))
                continue
            if number in self.started:
                self.tell(Event("retrying", job, "its node or its process was lost"))
            self.started.add(number)
            self.tell(Event("started", job))

    def settle(self, answer: Any) -> None:
        """Take a task's answer."""
        number = self.pending.pop(answer)
        job = self.given[number]
        if number not in self.started:
            self.tell(Event("started", job))
        self.started.discard(number)
        outcome = self.outcome(answer, self.jobs[number])
        if outcome.kind == "locked":
            self.locked[number] = time.monotonic() + LOCKED_SECONDS
        elif outcome.kind == "retrying" and number not in self.retrying:
            self.retrying.add(number)
            self.submit(number)
        elif outcome.kind != "finished":
            outcome = Outcome("failed", outcome.content, outcome.trace)
            write_failure(self.jobs[number].folder, str(outcome.content), {"trace": outcome.trace})
        self.tell(Event(outcome.kind, job, outcome.content))

    def outcome(self, answer: Any, job: Job) -> Outcome:
        """What became of a job, its result in the results folder here."""
        try:
            outcome: Outcome = self.ray.get(answer)
            if outcome.kind == "finished":
                self.fetch(job)
        except self.ray.exceptions.RayTaskError as error:  # before the job began: no mnet on that node, or another one
            return Outcome("failed", f"its node cannot run it: {str(error).strip().splitlines()[-1]}", str(error))
        except self.ray.exceptions.RayError as error:
            return Outcome("failed", f"its node or its process was lost too often: {describe(error)}", str(error))
        except Exception as error:  # every storage has errors of its own
            return Outcome("failed", f"finished, but its files cannot be had: {describe(error)}")
        return outcome

    def fetch(self, job: Job) -> None:
        if self.storage is not None:
            self.storage.pull(job)
        until = time.monotonic() + VISIBLE_SECONDS
        while read_result(job.folder) is None:
            if time.monotonic() > until:
                raise FileNotFoundError(f"{job.folder} is not a folder that all nodes share; give such a one, or a URL")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Let running trials write a checkpoint, take the others back."""
        with suppress(self.ray.exceptions.RayError):
            for answer, number in self.pending.items():  # first, or one takes the place of one that stops
                if number not in self.started:
                    self.ray.cancel(answer)
            stopping = self.board.stop.remote()
            self.ray.wait([stopping], timeout=BOARD_SECONDS)
            if self.pending:
                self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=STOP_SECONDS)


def absolute(job: Job) -> Job:
    """The same job for a process in another folder."""
    return replace(job, root=job.root.absolute(), trial=replace(job.trial, data_dir=job.trial.data_dir.resolve()))

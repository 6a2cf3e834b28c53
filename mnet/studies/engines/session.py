"""The loop that all engines share: which jobs wait, run, are locked by another process, or are tried a second time.

A backend only starts attempts, reports what becomes of them, and stops them. Everything else is decided here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mnet.studies.engines.events import Failed, Finished, Locked, OnEvent, Progressed, Retrying, Stalled, Started
from mnet.studies.engines.packing import packs
from mnet.studies.runs.job import Job, Outcome
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import write_failure


@dataclass(frozen=True, eq=False)
class Attempt:
    """Jobs to train together; several only if they were planned as one network."""

    jobs: tuple[Job, ...]
    alone: bool = False
    """Whether it must have its memory to itself. It then has one job, and is not retried if memory runs out."""


@dataclass(frozen=True)
class Began:
    """An attempt has begun, for the first time or again after it was lost."""


class Update(NamedTuple):
    """What a backend reports about a running job."""

    job: Job
    content: Began | Progress | Outcome


class Backend(Protocol):
    """Where jobs run."""

    lost: str
    """Why a running job begins again without having ended."""

    @property
    def isolated(self) -> bool:
        """Whether every attempt has its memory to itself anyway."""

    def submit(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Start the attempts that there is room for, and return them. If nothing runs, there is room for the first."""

    def poll(self, timeout_s: float) -> list[Update]:
        """What happened since the last call; waits up to `timeout_s` for something to happen."""

    def stop(self) -> None:
        """Let running jobs write a checkpoint, withdraw those that have not begun, and release everything."""


@dataclass
class _Running:
    attempt: Attempt
    heard: float
    """When it last reported anything."""
    warnings: int = 0
    started: bool = False


@dataclass
class Session:
    """Runs jobs on a backend until each has finished or failed."""

    backend: Backend
    on_event: OnEvent
    poll_s: float
    """Seconds to wait for news from the backend."""
    locked_s: float
    """Seconds between attempts at a run that another process trains."""
    stalled_s: float = math.inf
    """Seconds without a report after which a job is `Stalled`; again after twice the time, four times, …"""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    _waiting: list[Attempt] = field(default_factory=list)
    _running: dict[Job, _Running] = field(default_factory=dict)
    _locked: dict[Job, float] = field(default_factory=dict)
    """Job -> when to try again."""

    def run(self, jobs: Sequence[Job]) -> None:
        """As `Engine.run`. If it ends early, such as by Ctrl-C, running jobs are stopped where they can resume."""
        self._wait_for(jobs)
        try:
            while self._waiting or self._running or self._locked:
                self._submit()
                if self._running:
                    for update in self.backend.poll(self.poll_s):
                        self._receive(*update)
                    self._report_stalled()
                else:
                    self.sleep(self.poll_s)
        finally:
            self.backend.stop()

    def _wait_for(self, jobs: Sequence[Job]) -> None:
        for pack in packs(jobs):
            self._waiting.append(Attempt(pack, alone=self.backend.isolated and len(pack) == 1))

    def _submit(self) -> None:
        due = [job for job, when in self._locked.items() if self.clock() >= when]
        for job in due:
            del self._locked[job]
        self._wait_for(due)
        if not self._waiting:
            return
        submitted = self.backend.submit(self._waiting)
        self._waiting = [attempt for attempt in self._waiting if attempt not in submitted]
        for attempt in submitted:
            self._running |= {job: _Running(attempt, self.clock()) for job in attempt.jobs}

    def _receive(self, job: Job, content: Began | Progress | Outcome) -> None:
        running = self._running.get(job)
        if running is None:  # it has ended: a pack reports for all its jobs until the last one ends
            return
        running.heard, running.warnings = self.clock(), 0
        if isinstance(content, Began) and running.started:
            running.started = False
            self.on_event(Retrying(job, self.backend.lost))
        if not running.started:
            running.started = True
            self.on_event(Started(job))
        if isinstance(content, Progress):
            self.on_event(Progressed(job, content))
        elif isinstance(content, Outcome):
            self._end(job, content)

    def _end(self, job: Job, outcome: Outcome) -> None:
        attempt = self._running.pop(job).attempt
        if outcome.kind == "finished":
            self.on_event(Finished(job, outcome.result))
        elif outcome.kind == "locked":
            self._locked[job] = self.clock() + self.locked_s
            self.on_event(Locked(job))
        elif outcome.kind == "out_of_memory" and not attempt.alone:
            self._waiting.append(Attempt((job,), alone=True))
            self.on_event(Retrying(job, outcome.reason))
        else:
            write_failure(job.folder, outcome.reason, {"trace": outcome.trace})
            self.on_event(Failed(job, outcome.reason))

    def _report_stalled(self) -> None:
        for job, running in self._running.items():
            seconds = self.clock() - running.heard
            if seconds >= self.stalled_s * 2**running.warnings:
                running.warnings += 1
                self.on_event(Stalled(job, seconds))

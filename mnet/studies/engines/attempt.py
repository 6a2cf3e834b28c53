"""The settings that every engine runs jobs with, and one attempt at a job, which returns how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mnet.studies.runs.job import CHECKPOINT_SECONDS, Job, Outcome, RunJob, RunOptions, failure
from mnet.studies.runs.progress import Report
from mnet.studies.runs.store import Busy, Result

LOCKED_SECONDS = 2.0
"""Time between attempts at a run that another process of this machine trains."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How jobs run: the settings that all engines have."""

    trainer: Mapping[str, object] = field(default_factory=dict)
    """Arguments of Lightning's Trainer."""
    checkpoint_s: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints."""
    run_job: RunJob | None = None
    """None = `run.run_job`. Must be importable where jobs run."""

    @property
    def options(self) -> RunOptions:
        """Keyword arguments of `run_job`."""
        return {"trainer": dict(self.trainer), "checkpoint_s": self.checkpoint_s}


def try_job(run_job: RunJob | None, job: Job, report: Report, options: RunOptions) -> Outcome:
    """Run a job, and return how it ended.

    Args:
        run_job: None = `run.run_job`.
        job: What to run.
        report: Called with its progress.
        options: Keyword arguments of `run_job`.
    """
    try:
        return Outcome("finished", result=or_default(run_job)(job, report, **options))
    except Busy as error:
        return Outcome("locked", reason=str(error))
    except Exception as error:  # the study continues without this trial
        return failure(error)


def run_when_free(
    attempt: Callable[[], Result], on_locked: Callable[[str], object], interval_s: float = LOCKED_SECONDS
) -> Result:
    """Run one job without an engine, once no other process trains its run.

    Args:
        attempt: Runs the job; raises `Busy` while another process trains its run.
        on_locked: Called with the reason at the first such attempt.
        interval_s: Seconds between attempts.
    """
    locked = False
    while True:
        try:
            return attempt()
        except Busy as error:
            if not locked:
                on_locked(str(error))
            locked = True
            time.sleep(interval_s)


def or_default(run_job: RunJob | None) -> RunJob:
    """`run.run_job` for None: imported where it runs, since torch and Lightning take seconds."""
    if run_job is not None:
        return run_job
    from mnet.studies.runs import run

    return run.run_job

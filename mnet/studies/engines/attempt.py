"""What every engine does where a job runs: try it, and make of whatever happens something that can be sent back."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from mnet.studies.engines import EventKind, Job
from mnet.studies.runs.store import Busy

if TYPE_CHECKING:
    from mnet.studies.runs.callbacks import Report

RunJob = Callable[..., dict[str, object]]
"""`run.run_job`, or what a test puts in its place."""


class Outcome(NamedTuple):
    """How an attempt ended."""

    kind: EventKind
    """finished, failed, locked, or retrying (no memory was left); on the way: started, progress."""
    content: object
    """The result, or the reason in one line."""
    trace: str = ""
    """Of the error."""


def attempt(
    run_job: RunJob | None,
    job: Job,
    report: Report,
    options: Mapping[str, object],
    through: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Run a job, whatever comes of it.

    Args:
        run_job: None = `run.run_job`.
        job: What to run.
        report: Told of progress.
        options: Keyword arguments of `run_job`.
        through: Errors that are the engine's own.
    """
    try:
        return Outcome("finished", or_default(run_job)(job, report, **options))
    except through:
        raise
    except Busy as error:
        return Outcome("locked", str(error))
    except Exception as error:  # the study goes on without this trial
        return failure(error)


def failure(error: Exception) -> Outcome:
    """What is said of a job that ended with this error."""
    trace = "".join(traceback.format_exception(error))
    return Outcome("retrying" if out_of_memory(error) else "failed", describe(error), trace)


def or_default(run_job: RunJob | None) -> RunJob:
    """`run.run_job` for None: imported where it runs, since torch and Lightning take seconds."""
    if run_job is not None:
        return run_job
    from mnet.studies.runs import run

    return run.run_job


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine or the GPU had no memory left."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

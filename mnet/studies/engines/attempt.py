"""Running one job where a backend has placed it, and returning how it ended instead of raising."""

from __future__ import annotations

from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions, failure
from mnet.studies.runs.progress import Report
from mnet.studies.runs.store import Busy


def try_job(run_job: RunJob | None, job: Job, report: Report, options: RunOptions) -> Outcome:
    """Run a job.

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


def or_default(run_job: RunJob | None) -> RunJob:
    """`run.run_job` for None: imported where it runs, since torch and Lightning take seconds."""
    if run_job is not None:
        return run_job
    from mnet.studies.runs import run

    return run.run_job

"""What every engine does where a job runs: try it, and make of whatever happens something that can be sent back."""

from __future__ import annotations

from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions, failure
from mnet.studies.runs.progress import Report
from mnet.studies.runs.store import Busy


def attempt(
    run_job: RunJob | None,
    job: Job,
    report: Report,
    options: RunOptions,
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


def or_default(run_job: RunJob | None) -> RunJob:
    """`run.run_job` for None: imported where it runs, since torch and Lightning take seconds."""
    if run_job is not None:
        return run_job
    from mnet.studies.runs import run

    return run.run_job

"""The Slurm engine: the trials of a study as array jobs, through submitit.

All nodes must see the results folder, this user's home and this Python. A trial that Slurm stops, for another job or at
its time limit, is queued again and resumes from its last checkpoint.

Jobs report their progress as JSON in `<root>/.slurm`. submitit writes pickles, and reading a pickle can run code: they
are kept, with the logs, in a private folder of this user, outside the results folder, which others may share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnet.errors import ConfigError
from mnet.files import private_folder, write_json
from mnet.settings import parse
from mnet.studies.engines.attempt import RunSettings, try_job
from mnet.studies.engines.events import OnEvent
from mnet.studies.engines.session import Attempt, Began, Session, Update
from mnet.studies.runs.job import Job, Outcome
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import SLURM

ARRAY_SIZE = 1000
"""Jobs per array; Slurm's limit is 1001 unless a site changes it."""
PARALLEL = 256
"""Trials of an array that run at the same time."""
JOB_MINUTES = 240
"""Time limit of a job; a trial that needs more continues in the next one."""
RETRIES = 3
"""How many times a trial may reach its time limit."""
CPUS = 1
"""CPUs per trial, and the number of its threads."""
MEMORY_GB = 4.0
LOCKED_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
"""Time between reports of a job: many jobs share the file system."""


@dataclass(frozen=True)
class SlurmEngine(RunSettings):
    """Runs jobs on a Slurm cluster, from a machine that has `sbatch`.

    `sbatch` itself reads SBATCH_ACCOUNT, SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_TIMELIMIT, … from the environment.

    Raises:
        ConfigError: Resources that Slurm cannot give.
    """

    partition: str | None = None
    """None = the cluster's default."""
    gpus: float = 0
    """GPUs per trial: a whole number, since Slurm gives no fractions."""
    folder: Path = Path("~/.mnet/slurm")
    """Folder of submitit's files and logs: private to this user, and visible to all nodes."""
    poll_s: float = 2.0
    cluster: str = "slurm"
    """Or submitit's `local`: processes on this machine."""

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.gpus % 1:
            raise ConfigError(f"Slurm allocates whole GPUs, not {self.gpus}; the ray engine can share one")

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """As `Engine.run`. Ctrl-C cancels all jobs; if this process is killed instead, they continue without it.

        Raises:
            ConfigError: submitit is not installed, there is no Slurm, it refuses the jobs, or others can
            enter `folder`.
        """
        Session(SlurmBackend(self), on_event, self.poll_s, LOCKED_SECONDS).run(jobs)


class SlurmBackend:
    """Array jobs, and the files in which they report."""

    isolated = True
    lost = "Slurm stopped it and queued it again"

    def __init__(self, engine: SlurmEngine) -> None:
        self.engine = engine
        self.running: dict[Job, Any] = {}
        """Job -> submitit's job."""
        self.stamps: dict[Job, int] = {}
        """Modification time of the last report read."""

    def submit(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """As `Backend.submit`: one array per results folder and up to `ARRAY_SIZE` jobs."""
        jobs = [job for attempt in attempts for job in attempt.jobs]
        for root in dict.fromkeys(job.root for job in jobs):
            array = [job for job in jobs if job.root == root]
            for start in range(0, len(array), ARRAY_SIZE):
                self._submit_array(root, array[start : start + ARRAY_SIZE])
        return list(attempts)

    def _submit_array(self, root: Path, jobs: Sequence[Job]) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "the slurm engine needs submitit: pip install 'mnet[slurm]', or make EXTRAS=slurm"
            ) from None
        for job in jobs:  # remove what an earlier attempt reported
            _progress_file(job).unlink(missing_ok=True)
            self.stamps.pop(job, None)
        engine = self.engine
        folder = private_folder(engine.folder.expanduser())
        try:
            executor = submitit.AutoExecutor(folder / "%j", engine.cluster, slurm_max_num_timeout=RETRIES)
            executor.update_parameters(
                name="mnet",
                timeout_min=JOB_MINUTES,
                cpus_per_task=CPUS,
                gpus_per_node=int(engine.gpus),
                mem_gb=MEMORY_GB,
                slurm_array_parallelism=PARALLEL,
                slurm_partition=engine.partition,
            )
            self.running |= zip(jobs, executor.map_array(_Work(engine), jobs), strict=True)
        except (RuntimeError, submitit.core.utils.FailedSubmissionError) as error:
            raise ConfigError(f"Slurm cannot take the jobs: {error}") from None

    def poll(self, timeout_s: float) -> list[Update]:
        """As `Backend.poll`."""
        time.sleep(timeout_s)
        updates = []
        for job, task in list(self.running.items()):
            ended = task.done()  # checked before its report is read, which is then the last one
            updates += self._report(job)
            if ended:
                del self.running[job]
                updates.append(Update(job, _outcome(task)))
                _progress_file(job).unlink(missing_ok=True)
        return updates

    def _report(self, job: Job) -> list[Update]:
        """What the job has written since the last call."""
        path = _progress_file(job)
        with suppress(OSError, ValueError, TypeError):  # missing, half a file, or not a report
            stamp = path.stat().st_mtime_ns
            if stamp != self.stamps.get(job) and path.is_file():
                progress = json.loads(path.read_text())
                self.stamps[job] = stamp
                return [Update(job, Began() if progress is None else parse(Progress, dict(progress)))]
        return []

    def stop(self) -> None:
        """As `Backend.stop`, except that running jobs are cancelled too: they resume from their last checkpoint."""
        for task in self.running.values():
            task.cancel(check=False)


@dataclass(frozen=True)
class _Work:
    """The body of a job, on any node."""

    engine: SlurmEngine

    def __call__(self, job: Job) -> Outcome:
        import torch

        torch.set_num_threads(CPUS)
        report = _Reporter(job)
        report.write(None)
        return try_job(self.engine.run_job, job, report, self.engine.options)

    def checkpoint(self, job: Job) -> Any:
        """What submitit queues for a job that Slurm is about to stop: the same job, since a run resumes by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)


class _Reporter:
    """Writes progress to a file that the engine reads."""

    def __init__(self, job: Job) -> None:
        self.path = _progress_file(job)
        self._written = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._written >= PROGRESS_SECONDS:
            self.write(asdict(progress))

    def write(self, content: dict[str, object] | None) -> None:
        """Replace the file; None = the job begins."""
        with suppress(OSError):
            write_json(self.path, content)
        self._written = time.monotonic()


def _progress_file(job: Job) -> Path:
    return job.root / SLURM / f"{job.run_id}.progress"


def _outcome(task: Any) -> Outcome:
    """How a job ended."""
    error = task.exception()
    if error is None:
        outcome: Outcome = task.result()
        return outcome
    reason = str(error).splitlines()[0]
    return Outcome("failed", reason=f"its process died: {reason}; see {task.paths.stderr}", trace=str(error))

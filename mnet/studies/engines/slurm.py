"""The Slurm engine: the trials of a study as array jobs, through submitit.

The results folder is seen by all nodes, and this Python too. A trial that Slurm stops, for another job or at its time
limit, is queued again and goes on from its last checkpoint. Logs are under `<root>/.slurm`.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnet.errors import ConfigError
from mnet.files import write_atomic
from mnet.studies.engines import Event, Tell
from mnet.studies.engines.attempt import attempt
from mnet.studies.runs.job import Job, Outcome, RunJob, RunOptions
from mnet.studies.runs.store import SLURM_LOGS, write_failure

if TYPE_CHECKING:
    from mnet.studies.runs.progress import Progress

ARRAY = 1000
"""Jobs of one array; Slurm's own limit is 1001 unless its site says otherwise."""
LOCKED_SECONDS = 60.0
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class SlurmEngine:
    """Runs jobs on a Slurm cluster, from a machine that has `sbatch`.

    Raises:
        ConfigError: Resources that Slurm cannot give.
    """

    partition: str | None = None
    """None = the cluster's default."""
    minutes: int = 240
    """Time limit of a job; a trial that needs more goes on in the next one."""
    cpus: int = 1
    """Of each trial, which trains with as many threads."""
    gpus: float = 0
    """Of each trial; whole ones, since Slurm gives no fractions."""
    memory_gb: float = 4.0
    parallel: int = 256
    """Trials side by side."""
    retries: int = 3
    """Time limits that a trial may reach."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """More of submitit's, by its names: slurm_account, slurm_qos, slurm_constraint, …"""
    trainer: Mapping[str, object] = field(default_factory=dict)
    """Arguments of Lightning's Trainer."""
    checkpoint_s: float = 30.0
    poll_s: float = 2.0
    run_job: RunJob | None = None
    """None = `run.run_job`."""
    cluster: str = "slurm"
    """Or submitit's `local`: processes of this machine."""

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.gpus % 1:
            raise ConfigError(f"Slurm gives whole GPUs, not {self.gpus}; ray shares them")

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """As `Engine.run`. Ctrl-C cancels what is queued and running; killed otherwise, the jobs go on without it.

        Raises:
            ConfigError: submitit is not installed, there is no Slurm, or it refuses the parameters.
        """
        waiting = dict.fromkeys(jobs, 0.0)
        running: dict[Job, Any] = {}
        told: dict[Job, int] = {}
        try:
            while waiting or running:
                due = [job for job, when in waiting.items() if time.monotonic() >= when]
                running |= self.submit(due)
                for job in due:
                    del waiting[job]
                for job, task in list(running.items()):
                    told[job] = self.hear(job, told.get(job, 0), tell)
                    if not task.done():
                        continue
                    del running[job]
                    outcome = result_of(task)
                    if outcome.kind == "locked":
                        waiting[job] = time.monotonic() + LOCKED_SECONDS
                    elif outcome.kind != "finished":
                        outcome = Outcome("failed", outcome.content, outcome.trace)
                        write_failure(job.folder, str(outcome.content), {"trace": outcome.trace})
                    progress_file(job).unlink(missing_ok=True)
                    tell(Event(outcome.kind, job, outcome.content))
                time.sleep(self.poll_s)
        except BaseException:
            for task in running.values():
                task.cancel(check=False)
            raise

    def submit(self, jobs: Sequence[Job]) -> dict[Job, Any]:
        """Queue jobs: submitit's job of each."""
        tasks: dict[Job, Any] = {}
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "the slurm engine needs submitit: pip install 'mnet[slurm]', or make EXTRAS=slurm"
            ) from None
        for root in {job.root for job in jobs}:
            mine = [job for job in jobs if job.root == root]
            try:
                executor = submitit.AutoExecutor(
                    root / SLURM_LOGS / "%j", self.cluster, slurm_max_num_timeout=self.retries
                )
                executor.update_parameters(
                    name="mnet",
                    timeout_min=self.minutes,
                    cpus_per_task=self.cpus,
                    gpus_per_node=int(self.gpus),
                    mem_gb=self.memory_gb,
                    slurm_array_parallelism=self.parallel,
                    slurm_partition=self.partition,
                    **self.parameters,
                )
                for start in range(0, len(mine), ARRAY):
                    array = mine[start : start + ARRAY]
                    tasks |= zip(array, executor.map_array(Attempt(self), array), strict=True)
            except (RuntimeError, NameError, AssertionError, submitit.core.utils.FailedSubmissionError) as error:
                raise ConfigError(f"Slurm cannot take the jobs: {error}") from None
        return tasks

    def hear(self, job: Job, stamp: int, tell: Tell) -> int:
        """Tell what a job has written of its progress since `stamp`."""
        with suppress(OSError):
            new = progress_file(job).stat().st_mtime_ns
            if new != stamp:
                progress = pickle.loads(progress_file(job).read_bytes())  # noqa: S301 - from our own jobs
                if progress is None and stamp:
                    tell(Event("retrying", job, "Slurm stopped it and queued it again"))
                tell(Event("started" if progress is None else "progress", job, progress))
            return new
        return stamp


@dataclass(frozen=True)
class Attempt:
    """The body of a job, on whichever node."""

    engine: SlurmEngine

    def __call__(self, job: Job) -> Outcome:
        import torch

        torch.set_num_threads(self.engine.cpus)
        options: RunOptions = {"trainer": dict(self.engine.trainer), "checkpoint_s": self.engine.checkpoint_s}
        report = Reporter(job)
        report.write(None)
        return attempt(self.engine.run_job, job, report, options)

    def checkpoint(self, job: Job) -> Any:
        """What submitit queues in place of a job that Slurm is about to stop: the same, since a run resumes itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)


class Reporter:
    """Writes progress where the driver reads it, seldom: many trials share that file system."""

    def __init__(self, job: Job) -> None:
        self.path = progress_file(job)
        self._written = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._written >= PROGRESS_SECONDS:
            self.write(progress)

    def write(self, progress: Progress | None) -> None:
        with suppress(OSError):
            write_atomic(self.path, lambda stream: stream.write(pickle.dumps(progress)))
        self._written = time.monotonic()


def progress_file(job: Job) -> Path:
    return job.root / SLURM_LOGS / f"{job.run_id}.progress"


def result_of(task: Any) -> Outcome:
    """What became of a job that is done."""
    error = task.exception()
    if error is None:
        outcome: Outcome = task.result()
        return outcome
    reason = str(error).splitlines()[0]
    return Outcome("failed", f"its process died: {reason}; see {task.paths.stderr}", str(error))

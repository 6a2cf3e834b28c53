"""A job (a trial and the study whose folder it writes to), and the outcome of an attempt at it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

from mnet.studies.runs.progress import Report
from mnet.studies.runs.store import Result, run_folder
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile

if TYPE_CHECKING:
    from mnet.data import ImageData


@dataclass(frozen=True)
class Job:
    """A trial, and the study whose folder it writes to."""

    trial: Trial
    root: Path
    """The results folder."""
    study: str
    pack_size: int = 1
    """Largest number of seeds of its cell trained as one network."""
    compile: Compile = "auto"
    """How training steps are compiled or recorded; ignored for int8 runs, which are graphs already."""

    @property
    def run_id(self) -> str:
        return self.trial.run_id

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return run_folder(self.root, self.study, self.run_id)


CHECKPOINT_SECONDS = 30.0
"""Training time that is lost at most if a run is killed; writing a checkpoint takes about 30 ms."""


class RunOptions(TypedDict, total=False):
    """Options that an engine passes to every job."""

    trainer: Mapping[str, object] | None
    """Arguments of Lightning's Trainer that differ from the defaults of a run."""
    checkpoint_s: float
    """Seconds between checkpoints."""
    data: ImageData | None
    """The trial's data set, already read."""


class RunJob(Protocol):
    """`run.run_job`, or a function that a test passes in its place."""

    def __call__(self, job: Job, report: Report, /, **options: Unpack[RunOptions]) -> Result:
        """The result of the job."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended."""

    kind: Literal["finished", "failed", "locked", "out_of_memory"]
    """locked = another process trains the run."""
    result: Result = field(default_factory=Result)
    """The result of a finished job."""
    reason: str = ""
    """Why the job did not finish, in one line."""
    trace: str = ""
    """The traceback of the error."""


def failure(error: Exception) -> Outcome:
    """The outcome of a job that ended with this error."""
    trace = "".join(traceback.format_exception(error))
    return Outcome("out_of_memory" if out_of_memory(error) else "failed", reason=describe(error), trace=trace)


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine or the GPU ran out of memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

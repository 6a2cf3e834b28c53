"""Stand-ins for training: functions that processes of any engine can import within seconds."""

import os
import sys
import time
from pathlib import Path

from mnet.files import write_json
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.runs.store import RESULT, Busy, Result

GUARD_S = 300
"""Seconds after which a waiting stand-in gives up; this ends one that hangs, and is no test of speed."""
PROGRESS = Progress(1, 2, 50.0)


def behave(job: Job, report, /, **options) -> Result:
    """Each seed ends differently: an error, the death of its process, a lock, no memory, or a result."""
    import torch

    from mnet.studies.engines import slurm

    slurm.PROGRESS_SECONDS = 0.0
    seed = job.trial.seed
    with (job.root / f"attempts {seed}").open("a") as stream:
        stream.write("x")
    first = (job.root / f"attempts {seed}").read_text() == "x"
    report(PROGRESS)
    if seed == 0:
        raise ValueError("no such\nlayer")
    if seed == 1:
        os._exit(3)
    if seed == 2 and first:
        raise Busy("another process trains it")
    if seed == 3 and first:
        raise MemoryError("no more")
    result = {"top1": 1.0, "threads": torch.get_num_threads(), "gpus": gpus(), **options}
    folder = Path((job.root / f"folder {seed}").read_text())  # `job.folder` would import torchvision and Lightning
    write_json(folder / RESULT, {name: value for name, value in result.items() if name != "data"})
    return result


def gpus() -> float:
    """GPUs that Ray has given this task."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0) if ray and ray.is_initialized() else 0


def stoppable(job: Job, report, /, **_) -> Result:
    """Trains until it is asked to stop."""
    (job.root / f"began {job.trial.seed}").touch()
    deadline = time.monotonic() + GUARD_S
    while not report(PROGRESS):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (job.root / f"stopped {job.trial.seed}").touch()
    return {}

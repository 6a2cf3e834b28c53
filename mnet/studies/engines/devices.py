"""One trial of a study on several devices: in processes of their own, of which Lightning starts all but the first.

Lightning starts them with the command line of the program that trains, so that cannot be a study's; it is this file,
which tells the study's worker on its output what the trial does, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnet.errors import ConfigError
from mnet.settings import parse
from mnet.studies.engines.attempt import attempt
from mnet.studies.runs import run
from mnet.studies.runs.job import Job, RunOptions
from mnet.studies.runs.progress import Progress, Report, Stopped
from mnet.studies.runs.store import Busy, Result
from mnet.studies.runs.trainer import TRAINER_DEFAULTS, is_rank_zero, silence_lightning
from mnet.studies.trial import Trial


def device_count(trainer: Mapping[str, object]) -> int:
    """On how many devices of this machine one trial is to be trained.

    Raises:
        ConfigError: Lightning refuses these arguments of its Trainer.
    """
    if "devices" not in trainer:
        return 1
    silence_lightning()
    arguments = {**TRAINER_DEFAULTS, **trainer, "logger": False, "enable_checkpointing": False}
    try:
        return L.Trainer(**arguments).num_devices  # type: ignore[arg-type]
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def run_job(
    job: Job, report: Report, *, trainer: Mapping[str, object], checkpoint_s: float, data: object = None
) -> Result:
    """As `run.run_job`, in processes of its own, which read the data themselves. They stop when this one ends.

    Raises:
        Busy: Another process trains this run.
        RuntimeError: It failed; the message is the reason.
    """
    order: dict[str, object] = {"trial": job.trial.settings(), "root": str(job.root), "study": job.study}
    order |= {"compile": job.compile, "trainer": dict(trainer), "checkpoint_s": checkpoint_s}
    command = [sys.executable, "-m", __name__, json.dumps(order)]
    kind, content = "died", cast(Any, None)
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as leader,
    ):
        assert leader.stdin is not None
        assert leader.stdout is not None
        for line in leader.stdout:
            kind, content = json.loads(line)
            if kind == "progress" and report(Progress(**content)):
                leader.stdin.close()
        code = leader.wait()
        errors.seek(0)
        said = errors.read()
    if kind == "finished":
        return content
    if kind == "locked":
        raise Busy(content)
    last = said.strip().rpartition("\n")[2]
    failure = RuntimeError(
        content if kind in ("failed", "retrying") else last or f"its process died (exit code {code})"
    )
    failure.add_note(said)
    raise failure


def main(order: str) -> None:
    """Train what `run_job` has written down; every device's process comes here."""
    given = json.loads(order)
    job = Job(parse(Trial, given["trial"]), Path(given["root"]), given["study"], compile=given["compile"])
    options: RunOptions = {"trainer": given["trainer"], "checkpoint_s": given["checkpoint_s"]}
    torch.set_num_threads(1)
    if not is_rank_zero():
        with suppress(Stopped):  # as the first process is
            run.run_job(job, **options)
        return
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what others print, in other processes too, is no message

    def tell(kind: str, content: object) -> None:
        print(json.dumps([kind, content]), file=told, flush=True)

    def report(progress: Progress) -> bool:
        tell("progress", asdict(progress))
        return bool(select.select([sys.stdin], [], [], 0)[0])  # at its end: asked to stop, or nobody is left

    outcome = attempt(None, job, report, options)
    print(outcome.trace, file=sys.stderr)
    tell(outcome.kind, outcome.content)


if __name__ == "__main__":
    main(sys.argv[1])

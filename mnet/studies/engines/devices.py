"""One trial on several devices, one process each; Lightning starts all but the first.

Lightning starts them with the command line of the program that trains, which therefore cannot be the study's. It is
this file, which reports to the study's worker on standard output: one line of JSON per message.
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
from typing import Unpack

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnet.errors import ConfigError
from mnet.settings import parse
from mnet.studies.engines.attempt import try_job
from mnet.studies.runs import run
from mnet.studies.runs.job import Job, Outcome, RunOptions
from mnet.studies.runs.progress import Progress, Report, Stopped
from mnet.studies.runs.store import Busy, Result
from mnet.studies.runs.trainer import TRAINER_DEFAULTS, is_rank_zero, silence_lightning
from mnet.studies.trial import Trial


def device_count(trainer: Mapping[str, object]) -> int:
    """How many devices of this machine train one trial.

    Raises:
        ConfigError: Lightning refuses these arguments of its Trainer.
    """
    silence_lightning()
    arguments = {**TRAINER_DEFAULTS, **trainer, "logger": False, "enable_checkpointing": False}
    try:
        return L.Trainer(**arguments).num_devices  # type: ignore[arg-type]
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def run_job(job: Job, report: Report, /, **options: Unpack[RunOptions]) -> Result:
    """As `run.run_job`, in separate processes, which read the data themselves. They stop when this one ends.

    Raises:
        Busy: Another process trains this run.
        RuntimeError: The run failed; the message is the reason.
    """
    order: dict[str, object] = {"trial": job.trial.settings(), "root": str(job.root), "study": job.study}
    order |= {"compile": job.compile, "trainer": dict(options.get("trainer") or {})}
    order |= {"checkpoint_s": options["checkpoint_s"]}
    command = [sys.executable, "-m", __name__, json.dumps(order)]
    outcome: Outcome | None = None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as leader,
    ):
        assert leader.stdin is not None
        assert leader.stdout is not None
        for line in leader.stdout:
            message = json.loads(line)
            if "kind" in message:
                outcome = Outcome(**message)
            elif report(Progress(**message)):
                leader.stdin.close()
        code = leader.wait()
        errors.seek(0)
        log = errors.read()
    if outcome is not None and outcome.kind == "finished":
        return outcome.result
    if outcome is not None and outcome.kind == "locked":
        raise Busy(outcome.reason)
    last_line = log.strip().rpartition("\n")[2]
    reason = outcome.reason if outcome is not None else last_line or f"its process died (exit code {code})"
    error = RuntimeError(reason)
    error.add_note(log)
    raise error


def main(order: str) -> None:
    """Train the job that `run_job` passes on; the process of every device runs this."""
    arguments = json.loads(order)
    job = Job(
        parse(Trial, arguments["trial"]), Path(arguments["root"]), arguments["study"], compile=arguments["compile"]
    )
    options: RunOptions = {"trainer": arguments["trainer"], "checkpoint_s": arguments["checkpoint_s"]}
    torch.set_num_threads(1)
    if not is_rank_zero():
        with suppress(Stopped):  # the first process is stopped as well
            run.run_job(job, **options)
        return
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # anything else printed, in other processes too, is a log

    def send(message: Mapping[str, object]) -> None:
        print(json.dumps(message), file=messages, flush=True)

    def report(progress: Progress) -> bool:
        send(asdict(progress))
        return bool(select.select([sys.stdin], [], [], 0)[0])  # at end of file, the study asks to stop or is gone

    outcome = try_job(None, job, report, options)
    print(outcome.trace, file=sys.stderr)
    send({**asdict(outcome), "trace": ""})


if __name__ == "__main__":
    main(sys.argv[1])

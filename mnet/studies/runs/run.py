"""One trial, trained and tested, and what it leaves behind: a folder with `result.json` written last."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

from lightning.pytorch.loggers import Logger
from torch.fx import GraphModule

from mnet.data import ImageData
from mnet.data.batches import Shard
from mnet.errors import ConfigError
from mnet.files import remove_temporary
from mnet.provenance import keep_freed_memory
from mnet.quantization import convert, require
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.checkpoints import ResumeCheckpoint, WholeCheckpoints, usable_checkpoint
from mnet.studies.runs.finish import Training, finish
from mnet.studies.runs.job import Job
from mnet.studies.runs.metrics import MetricsFile
from mnet.studies.runs.prepare import prepare_run
from mnet.studies.runs.progress import Report, ignore_progress
from mnet.studies.runs.store import (
    Result,
    adopt,
    find_finished,
    lock,
    read_result,
    write_config,
)
from mnet.studies.runs.trainer import CHECKPOINT_SECONDS, is_rank_zero, make_trainer, quieten
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile


def run_job(
    job: Job,
    report: Report = ignore_progress,
    *,
    trainer: Mapping[str, object] | None = None,
    loggers: Sequence[Logger] = (),
    checkpoint_s: float = CHECKPOINT_SECONDS,
    data: ImageData | None = None,
) -> Result:
    """Run a job once, whoever else is about to: a run that any study has finished is copied.

    The fp32 run that an int8 one starts from is found in any study, or trained first, as a run of this one.

    Args, Returns and Raises as `run_trial`, and:
        Busy: Another process trains this run, or the one that it starts from.
    """
    if job.trial.quantized and find_finished(job.root, job.run_id) is None:
        check_one_device(job.trial, trainer or {})
        require()
        before = replace(job, trial=job.trial.in_float())
        run_job(before, report, trainer=trainer, checkpoint_s=checkpoint_s, data=data)
    with lock(job.root, job.run_id) if is_rank_zero() else nullcontext():
        if is_rank_zero():
            finished = find_finished(job.root, job.run_id)
            if finished is not None:
                return adopt(finished, job.folder)
            remove_temporary(job.folder)
        return run_trial(
            job.trial,
            job.folder,
            report,
            trainer=trainer,
            loggers=loggers,
            checkpoint_s=checkpoint_s,
            data=data,
            start=find_finished(job.root, job.trial.in_float().run_id),
            compile=job.compile,
        )


def check_one_device(trial: Trial, trainer: Mapping[str, object]) -> None:
    """
    Raises:
        ConfigError: An int8 run on several devices, whose ranges would be those of a part of the images each.
    """
    devices = trainer.get("devices", 1)
    if str(devices) != "1" and not (isinstance(devices, list) and len(devices) == 1):
        raise ConfigError(f"precision={trial.precision} takes one device, not trainer.devices={devices}; give 1")


def run_trial(
    trial: Trial,
    folder: Path,
    report: Report = ignore_progress,
    *,
    trainer: Mapping[str, object] | None = None,
    loggers: Sequence[Logger] = (),
    checkpoint_s: float = CHECKPOINT_SECONDS,
    data: ImageData | None = None,
    start: Path | None = None,
    compile: Compile = "off",
) -> Result:
    """Train and test once; a folder that holds a result already is not paid for again.

    Args:
        trial: What to run.
        folder: Where config, metrics, weights and result go. An interrupted run goes on from its checkpoint, in the
            middle of an epoch too, to the same numbers.
        report: Told of progress about once a second; a true answer stops the run.
        trainer: Arguments of Lightning's Trainer that differ from `TRAINER_DEFAULTS`.
        loggers: Beside the CSV file.
        checkpoint_s: Seconds between checkpoints.
        data: The trial's data set, already read; None reads it.
        start: The folder of the finished fp32 run, for an int8 one.
        compile: How training steps are compiled.

    Returns:
        The content of `result.json`; nothing where another process leads.

    Raises:
        ConfigError: The devices cannot share a batch equally, or cannot compute in this precision.
        DataError: The data set cannot be had.
        NotFinite: The loss became NaN or infinite.
        Stopped: The report asked for it.
    """
    finished = read_result(folder)
    if finished is not None:
        return finished
    quieten()
    keep_freed_memory()
    if is_rank_zero():
        write_config(trial, folder, trainer)
    model, data = prepare_run(trial, data, start)
    watch, metrics = ProgressMonitor(report), MetricsFile(folder)
    callbacks = [watch, SeedSteps(trial.seed), ResumeCheckpoint(folder, checkpoint_s, watch, metrics)]
    compile = "off" if trial.quantized else compile
    model.compile_training(compile)
    machine = make_trainer(trial, model.recipe, callbacks, [metrics, *loggers], WholeCheckpoints(), trainer)
    Shard(machine.global_rank, machine.world_size).check(model.recipe.batch_size)  # before other processes are started
    if machine.strategy.launcher is not None:  # these wait for this one, however it ends
        atexit.register(machine.strategy.launcher.kill, signal.SIGKILL)
    if trial.precision != "int8":
        machine.fit(model, datamodule=data, ckpt_path=usable_checkpoint(folder), weights_only=True)
    if machine.interrupted:
        raise KeyboardInterrupt
    if trial.precision == "int8-qat":
        model.net = convert(cast(GraphModule, model.net))
    if trial.quantized:
        machine.validate(model, datamodule=data, verbose=False)
    return finish(trial, folder, model, data, machine, metrics, Training(machine.global_step, watch.seconds, compile))

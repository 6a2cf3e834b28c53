"""One trial, trained and tested once."""

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
from mnet.files import remove_temporary, write_json
from mnet.quantization import check_installed, convert
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.checkpoints import ResumeCheckpoint, WholeCheckpoints, usable_checkpoint
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.finish import Training, finish, test
from mnet.studies.runs.job import CHECKPOINT_SECONDS, Job
from mnet.studies.runs.metrics import MetricsFile
from mnet.studies.runs.prepare import prepare_run
from mnet.studies.runs.progress import Report, ignore_progress
from mnet.studies.runs.store import IMAGES, Result, adopt, find_finished, lock, read_result, write_config
from mnet.studies.runs.trainer import is_rank_zero, make_trainer, silence_lightning
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile
from mnet.training.memory import keep_freed_memory


def run_job(
    job: Job,
    report: Report = ignore_progress,
    *,
    trainer: Mapping[str, object] | None = None,
    loggers: Sequence[Logger] = (),
    checkpoint_s: float = CHECKPOINT_SECONDS,
    data: ImageData | None = None,
) -> Result:
    """Run a job while holding its lock. If any study has finished the run, its files are copied.

    An int8 run starts from the fp32 run of the same settings and seed: any study's, or one that is trained first as a
    run of this study.

    Args, Returns and Raises as `run_trial`, and:
        Busy: Another process trains this run, or the fp32 run that it starts from.
    """
    if job.trial.quantized and find_finished(job.root, job.run_id, trainer) is None:
        _check_one_device(job.trial, trainer or {})
        check_installed()
        fp32 = replace(job, trial=job.trial.in_float())
        run_job(fp32, report, trainer=trainer, checkpoint_s=checkpoint_s, data=data)
    with lock(job.root, job.run_id) if is_rank_zero() else nullcontext():
        if is_rank_zero():
            if (finished := find_finished(job.root, job.run_id, trainer)) is not None:
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
            start=find_finished(job.root, job.trial.in_float().run_id, trainer),
            compile=job.compile,
        )


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
    compile: Compile = "auto",
) -> Result:
    """Train and test once. Returns the existing result if the run is finished.

    Args:
        trial: What to run.
        folder: For the files of the run. An interrupted run resumes from its checkpoint, also in the middle of an
            epoch, and computes the same numbers.
        report: Called with the progress about once a second; a true answer stops the run.
        trainer: Arguments of Lightning's Trainer that differ from `TRAINER_DEFAULTS`.
        loggers: Loggers besides the CSV file.
        checkpoint_s: Seconds between checkpoints.
        data: The trial's data set, already read; None reads it.
        start: The folder of the finished fp32 run, for an int8 one.
        compile: How training steps are compiled or recorded.

    Returns:
        The content of result.json; empty in a process that is not rank zero.

    Raises:
        ConfigError: The devices cannot share a batch equally, or cannot compute in this precision.
        DataError: The data set is missing or damaged.
        NotFinite: The loss became NaN or infinite.
        Stopped: The report asked to stop.
    """
    if (finished := read_result(folder)) is not None:
        return finished
    silence_lightning()
    keep_freed_memory()
    if is_rank_zero():
        write_config(trial, folder, trainer)
    module, data = prepare_run(trial, data, start)
    if is_rank_zero():
        write_json(folder / IMAGES, data.description())
    recipe = module.recipe
    module.compile_training("off" if trial.quantized else compile)
    monitor, metrics = ProgressMonitor(report), MetricsFile(folder)
    callbacks = [
        monitor,
        SeedSteps(trial.seed),
        ResumeCheckpoint(folder, [trial.run_id], checkpoint_s, monitor, metrics),
    ]
    lightning_trainer = make_trainer(trial, recipe, callbacks, [metrics, *loggers], WholeCheckpoints(), trainer)
    shard = Shard(lightning_trainer.global_rank, lightning_trainer.world_size)
    shard.check(recipe.batch_size)  # before other processes are started
    if lightning_trainer.strategy.launcher is not None:  # otherwise they would wait for this process forever
        atexit.register(lightning_trainer.strategy.launcher.kill, signal.SIGKILL)
    images = RunImages(data)
    if trial.precision != "int8":
        lightning_trainer.fit(
            module, datamodule=images, ckpt_path=usable_checkpoint(folder, trial.run_id), weights_only=True
        )
    if lightning_trainer.interrupted:
        raise KeyboardInterrupt
    if trial.precision == "int8-qat":
        module.net = convert(cast(GraphModule, module.net))
    if trial.quantized:
        lightning_trainer.validate(module, datamodule=images, verbose=False)
    training = Training(lightning_trainer.global_step, monitor.seconds, module.compiled_as)
    logged = test(trial, module, images, lightning_trainer)
    return finish(trial, folder, module, data, lightning_trainer, metrics, training, logged)


def _check_one_device(trial: Trial, trainer: Mapping[str, object]) -> None:
    """Raises:
    ConfigError: An int8 run on several devices: each would set activation ranges from its part of the images.
    """
    devices = trainer.get("devices", 1)
    if str(devices) != "1" and not (isinstance(devices, list) and len(devices) == 1):
        raise ConfigError(f"precision={trial.precision} needs one device, not trainer.devices={devices}; give 1")

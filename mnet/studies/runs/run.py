"""One trial, trained and tested, and what it leaves behind: a folder with `result.json` written last."""

from __future__ import annotations

import atexit
import logging
import math
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.fx import GraphModule

from mnet.data import DATASETS, Augment, ImageData, create_data
from mnet.data.batches import Shard
from mnet.data.in_memory import InMemoryImages
from mnet.errors import ConfigError
from mnet.files import remove_temporary, write_json, write_torch
from mnet.models.cost import cost
from mnet.models.diagnostics import dead_kernels
from mnet.models.network import MobileNet
from mnet.models.spec import Network
from mnet.provenance import provenance
from mnet.quantization import CALIBRATION_BATCH, check_installed, convert, prepare, quantize, save
from mnet.studies.runs.callbacks import (
    DeadKernels,
    MetricsFile,
    ProgressMonitor,
    ResumeCheckpoint,
    SeedSteps,
    WholeCheckpoints,
    usable_checkpoint,
)
from mnet.studies.runs.examples import keep_examples
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import NotFinite, Report, ignore_progress
from mnet.studies.runs.start import begin_from
from mnet.studies.runs.store import (
    FAILURE,
    FORMAT,
    RESULT,
    RESUME,
    WEIGHTS,
    Result,
    adopt,
    find_finished,
    lock,
    read_result,
    write_config,
    write_correct,
)
from mnet.studies.trial import Trial
from mnet.tasks.module import LOG_STEPS, TaskModule
from mnet.training.arithmetic import Compile, check_precision, set_tensor_cores
from mnet.training.ema import WarmEMA
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import Recipe

CALIBRATION = 512
"""Training images that the ranges of an int8 network are seen on."""

CHECKPOINT_SECONDS = 30.0
"""Training that a kill may cost; a checkpoint takes some 30 ms."""

TRAINER_DEFAULTS: Mapping[str, object] = {
    "accelerator": "auto",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": LOG_STEPS,
}


def is_rank_zero() -> bool:
    """Whether this process is the one that holds a run and writes its files.

    A run on several devices is a process a device: Lightning starts the others with the same command line.
    """
    return getattr(rank_zero_only, "rank", 0) == 0


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
        check_installed()
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


class Training(NamedTuple):
    """How a run was trained."""

    steps: int
    seconds: float
    """This run's share."""
    compile: Compile
    replicas: int = 1
    """Runs that were trained as one network, see `mnet.models.replicas`."""


def prepare_run(trial: Trial, data: ImageData | None, start: Path | None = None) -> tuple[TaskModule, ImageData]:
    """What is trained, as the seed draws it, and its images, which are read where they are not given."""
    check_precision(trial.precision)
    recipe = trial.full_recipe()
    own = augmentation(trial, recipe)
    data = load_data(trial, recipe) if data is None else data.for_run(recipe.batch_size, trial.seed, own)
    L.seed_everything(trial.seed, verbose=False)
    network = trial.network(data.num_classes, data.in_channels)
    return build_model(trial, network, recipe, data, start), data


def make_trainer(
    trial: Trial,
    recipe: Recipe,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    checkpoints: CheckpointIO,
    trainer: Mapping[str, object] | None,
) -> L.Trainer:
    set_tensor_cores(trial.precision == "tf32")
    averages = [WarmEMA(recipe.ema)] if recipe.ema else []
    callbacks = [*callbacks, DeadKernels()]
    by_trial = {
        "limit_train_batches": recipe.epoch_steps or 1.0,
        "precision": "bf16-mixed" if trial.precision == "bf16" else "32-true",
    }
    return L.Trainer(
        max_epochs=recipe.epochs,
        callbacks=[*callbacks, *averages],
        logger=loggers,
        plugins=[checkpoints],
        **{**TRAINER_DEFAULTS, **by_trial, **(trainer or {})},  # type: ignore[arg-type]
    )


def finish(
    trial: Trial,
    folder: Path,
    model: TaskModule,
    data: ImageData,
    machine: L.Trainer,
    metrics: MetricsFile,
    training: Training,
) -> Result:
    """Test a trained network, if it is to be, and write all that is kept of its run, the result last.

    Args:
        trial, folder, data, metrics: Of the run.
        model: With its trained network.
        machine: That logs to `metrics`.
        training: How it was trained.

    Raises:
        NotFinite: The test loss is no number.
    """
    headline = trial.task.headline.name
    validated = metrics.last(f"val/{headline}", "val/loss")
    tested: Result = test(trial, model, data, machine) if trial.tested else {}
    if not machine.is_global_zero:
        return {}
    recipe, spent, dead = model.recipe, cost(model.network, data.resolution), dead_kernels(model.net)
    result: Result = {
        **tested,
        f"val_{headline}": round(validated[0], 4),
        "val_loss": round(validated[1], 6),
        "resolution": data.resolution,
        "epochs": recipe.epochs,
        "params": spent.params,
        "madds": spent.madds,
        "train_seconds": round(training.seconds, 2),
        "images_per_second": round(training.steps * recipe.batch_size / max(training.seconds, 1e-9), 1),
        **({"dead_kernels": round(100 * dead[0].share, 4)} if dead else {}),
        **provenance(machine.strategy.root_device, machine.world_size),
        "replicas": training.replicas,
        "compile": training.compile,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": FORMAT,
    }
    if model.start is not None:
        result |= {"pretrained_share": round(model.start.share, 4), "start": str(model.start)}
    metrics.save()
    if trial.tested:
        keep_examples(model, data, folder)
        if (correct := model.test_correct) is not None:
            write_correct(folder, correct.numpy())
    if not trial.quantized:
        write_torch(folder / WEIGHTS, model.net.state_dict())
    else:
        save(model.net.cpu(), (data.in_channels, data.resolution, data.resolution), folder / WEIGHTS)
    write_json(folder / RESULT, result)
    for name in (RESUME, FAILURE):
        (folder / name).unlink(missing_ok=True)
    return result


def test(trial: Trial, model: TaskModule, data: ImageData, machine: L.Trainer) -> Result:
    """What is measured on test images.

    Raises:
        NotFinite: The test loss is no number.
    """
    (found,) = machine.test(model, datamodule=data, verbose=False)
    if not math.isfinite(found["test/loss"]):
        raise NotFinite(f"the test loss is {found['test/loss']}")
    measured = {metric.name: round(found[f"test/{metric.name}"], 4) for metric in trial.task.metrics}
    return {**measured, "test_loss": round(found["test/loss"], 6)}


def build_model(trial: Trial, network: Network, recipe: Recipe, data: ImageData, start: Path | None) -> TaskModule:
    """What is trained and tested: a new network; or that of the fp32 run in `start`, in int8 or about to be."""
    model = trial.task.load()(network, recipe)
    if not trial.quantized:
        if trial.pretrained is not None:
            model.start = begin_from(trial.pretrained, cast(MobileNet, model.net))
        return model
    from mnet.tasks.classification import QuantizedClassifier

    assert start is not None
    assert isinstance(model.net, MobileNet)
    model.net.load_state_dict(torch.load(start / WEIGHTS, map_location="cpu", weights_only=True))
    seen = calibration_images(data, trial.seed)
    if trial.precision == "int8-qat":
        return QuantizedClassifier(network, recipe, prepare(model.net, seen, training=True))
    model.net = quantize(model.net, seen)
    return model


def calibration_images(data: ImageData, seed: int) -> Tensor:
    """The first `CALIBRATION` images of training, as the seed shuffles them, not augmented where they are in memory:
    (N, C, H, W)."""
    loader = data.for_run(CALIBRATION_BATCH, seed, Augment(flip=False)).train_dataloader()
    batches = [images for images, _ in islice(iter(loader), CALIBRATION // CALIBRATION_BATCH)]
    return torch.cat(batches)


def quieten() -> None:
    """Lightning explains itself at length."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of 1x1 kernels, channels_last
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def augmentation(trial: Trial, recipe: Recipe) -> Augment | None:
    """None = the data set's own; streamed photographs are always cropped at random."""
    in_memory = issubclass(DATASETS.get(trial.dataset, ImageData), InMemoryImages)
    return Augment(flip=False) if in_memory and not recipe.augment else None


def load_data(trial: Trial, recipe: Recipe) -> ImageData:
    """The trial's data set, read and split."""
    settings: dict[str, object] = {"batch_size": recipe.batch_size, "seed": trial.seed}
    if (augment := augmentation(trial, recipe)) is not None:
        settings["augment"] = augment
    data = create_data(trial.dataset, **trial.data_settings(), **settings)
    data.prepare_data()
    data.setup("fit")
    return data

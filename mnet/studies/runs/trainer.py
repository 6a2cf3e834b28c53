"""Lightning's Trainer as every run uses it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mnet.studies.runs.callbacks import DeadKernels
from mnet.studies.trial import Trial
from mnet.tasks.module import LOG_STEPS
from mnet.training.arithmetic import set_tensor_cores
from mnet.training.ema import WarmEMA
from mnet.training.recipes import Recipe

TRAINER_DEFAULTS: Mapping[str, object] = {
    "accelerator": "auto",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": LOG_STEPS,
}


def is_rank_zero() -> bool:
    """Whether this process holds the lock of a run and writes its files.

    A run on several devices has one process per device: Lightning starts the others with the same command line.
    """
    return getattr(rank_zero_only, "rank", 0) == 0


def make_trainer(
    trial: Trial,
    recipe: Recipe,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    checkpoints: CheckpointIO,
    arguments: Mapping[str, object] | None,
) -> L.Trainer:
    """The Trainer of a run; `arguments` override `TRAINER_DEFAULTS` and what follows from the trial."""
    set_tensor_cores(trial.precision == "tf32")
    averages = [WarmEMA(recipe.ema)] if recipe.ema else []
    by_trial = {
        "limit_train_batches": recipe.epoch_steps or 1.0,
        "precision": "bf16-mixed" if trial.precision == "bf16" else "32-true",
    }
    return L.Trainer(
        max_epochs=recipe.epochs,
        callbacks=[*callbacks, DeadKernels(), *averages],
        logger=loggers,
        plugins=[checkpoints],
        **{**TRAINER_DEFAULTS, **by_trial, **(arguments or {})},  # type: ignore[arg-type]
    )


def silence_lightning() -> None:
    """Turn off Lightning's hints and warnings; its errors remain."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # 1x1 kernels in channels_last
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

"""One trial, trained and tested, and what it leaves behind: a folder with `result.json` written last."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

import mnet
from mnet.cost import cost
from mnet.data import DATASETS, Augment, ImageData, create_data
from mnet.data.batches import random_seed
from mnet.data.module import InMemoryImages
from mnet.files import write_atomic, write_json, write_yaml
from mnet.studies.trial import Trial
from mnet.tasks.classification import LOG_STEPS, ImageClassifier
from mnet.training.ema import WarmEMA
from mnet.training.recipes import Recipe

RESULT = "result.json"
RESUME = "resume.ckpt"
WEIGHTS = "weights.pt"
REPORT_SECONDS = 1.0

TRAINER_DEFAULTS: Mapping[str, object] = {
    "accelerator": "auto",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": LOG_STEPS,
}


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    step: int
    steps: int
    top1: float
    """Of recent training batches, in percent."""


class NotFinite(RuntimeError):
    """The loss became NaN or infinite."""


def run_trial(
    trial: Trial,
    folder: Path,
    report: Callable[[Progress], object] = lambda progress: None,
    *,
    trainer: Mapping[str, object] | None = None,
    loggers: tuple[Logger, ...] = (),
) -> dict[str, object]:
    """Train and test once; a folder that holds a result already is not paid for again.

    Args:
        trial: What to run.
        folder: Where config, metrics, weights and result go. An interrupted run goes on from its last epoch.
        report: Told of progress about once a second.
        trainer: Arguments of Lightning's Trainer that differ from `TRAINER_DEFAULTS`.
        loggers: Beside the CSV logger.

    Returns:
        The content of `result.json`.

    Raises:
        DataError: The data set cannot be had.
        NotFinite: The loss became NaN or infinite.
    """
    finished = read_result(folder)
    if finished is not None:
        return finished
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    write_yaml(folder / "config.yaml", {**trial.settings(), **({"trainer": dict(trainer)} if trainer else {})})
    recipe = trial.full_recipe()
    data = load_data(trial, recipe)
    L.seed_everything(trial.seed, verbose=False)
    network = trial.network(data.num_classes, data.in_channels)
    model = ImageClassifier(network, recipe)
    watch = Watch(report)
    callbacks: list[Callback] = [watch, SeedSteps(trial.seed)]
    if recipe.ema:
        callbacks.append(WarmEMA(recipe.ema))
    if recipe.epochs > 1:
        callbacks.append(ModelCheckpoint(folder, RESUME.removesuffix(".ckpt"), enable_version_counter=False))
    csv = CSVLogger(folder.parent, folder.name, version="")
    machine = L.Trainer(
        max_epochs=recipe.epochs,
        enable_checkpointing=recipe.epochs > 1,
        callbacks=callbacks,
        logger=[csv, *loggers],
        **{**TRAINER_DEFAULTS, **(trainer or {})},  # type: ignore[arg-type]
    )
    resume = folder / RESUME
    machine.fit(model, datamodule=data, ckpt_path=str(resume) if resume.exists() else None, weights_only=True)
    if machine.interrupted:
        raise KeyboardInterrupt
    (validated,) = machine.validate(model, datamodule=data, verbose=False)
    (tested,) = machine.test(model, datamodule=data, verbose=False)
    if not math.isfinite(tested["test/loss"]):
        raise NotFinite(f"the test loss is {tested['test/loss']}")
    spent = cost(network, data.resolution)
    result = {
        "top1": round(tested["test/top1"], 4),
        "top5": round(tested["test/top5"], 4),
        "test_loss": round(tested["test/loss"], 6),
        "val_top1": round(validated["val/top1"], 4),
        "val_loss": round(validated["val/loss"], 6),
        "resolution": data.resolution,
        "epochs": recipe.epochs,
        "params": spent.params,
        "madds": spent.madds,
        "train_seconds": round(watch.seconds, 2),
        "images_per_second": round(watch.steps * recipe.batch_size / max(watch.seconds, 1e-9), 1),
        **provenance(machine.strategy.root_device),
    }
    write_atomic(folder / WEIGHTS, lambda stream: torch.save(model.net.state_dict(), stream))
    write_json(folder / RESULT, result)
    resume.unlink(missing_ok=True)
    return result


def load_data(trial: Trial, recipe: Recipe) -> ImageData:
    """The trial's data set, read and split."""
    settings: dict[str, object] = {}
    if not recipe.augment and issubclass(DATASETS.get(trial.dataset, ImageData), InMemoryImages):
        settings["augment"] = Augment(flip=False)  # streamed photographs are always cropped at random
    data = create_data(
        trial.dataset,
        data_dir=trial.data_dir,
        batch_size=recipe.batch_size,
        resolution=trial.resolution,
        seed=trial.seed,
        **settings,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def read_result(folder: Path) -> dict[str, object] | None:
    """The result of a finished run; None if there is none, or only a damaged one."""
    try:
        return cast(dict[str, object], json.loads((folder / RESULT).read_text()))
    except (OSError, ValueError):
        return None


class SeedSteps(Callback):
    """Makes the randomness of a step (dropout) a function of seed and step, so that a resumed run repeats it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        torch.manual_seed(random_seed("step", self.seed, trainer.global_step))


class Watch(Callback):
    """Reports progress, times training alone, and stops a run whose loss is no longer a number."""

    def __init__(self, report: Callable[[Progress], object]) -> None:
        self.report = report
        self.seconds = 0.0
        self.steps = 0
        self._since = 0.0
        self._told = 0.0
        self._top1 = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.steps += 1
        now = time.perf_counter()
        if now - self._told < REPORT_SECONDS:
            return
        self._told = now
        seen = cast(dict[str, torch.Tensor], outputs)
        loss, top1 = float(seen["loss"]), float(seen["top1"])  # waits for the device: once a second only
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss} at step {trainer.global_step}")
        self._top1 += (top1 - self._top1) * (0.2 if self._top1 else 1.0)
        self.report(Progress(trainer.global_step, int(trainer.estimated_stepping_batches), self._top1))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds += time.perf_counter() - self._since


@cache
def provenance(device: torch.device) -> dict[str, object]:
    """Where and by what a number was made."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mnet": mnet.__version__,
        "revision": revision(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def revision() -> str:
    """The git revision of the code, with + if it was changed since; empty outside a checkout."""
    where = Path(__file__).parent
    try:
        ask = ["git", "-C", str(where), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

"""What a trained run leaves behind: its test, and the files of its folder, result.json last."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import lightning as L

from mnet.data import ImageData
from mnet.files import write_json, write_torch
from mnet.models.cost import cost
from mnet.models.diagnostics import dead_kernels
from mnet.provenance import provenance
from mnet.quantization import save
from mnet.studies.runs.examples import keep_examples
from mnet.studies.runs.metrics import MetricsFile
from mnet.studies.runs.progress import NotFinite
from mnet.studies.runs.store import (
    FAILURE,
    FORMAT,
    RESULT,
    RESUME,
    WEIGHTS,
    Result,
    write_correct,
)
from mnet.studies.trial import Trial
from mnet.tasks.module import TaskModule
from mnet.training.arithmetic import Compile


class Training(NamedTuple):
    """How a run was trained."""

    steps: int
    seconds: float
    """This run's share."""
    compile: Compile
    replicas: int = 1
    """Runs that were trained as one network, see `mnet.models.replicas`."""


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

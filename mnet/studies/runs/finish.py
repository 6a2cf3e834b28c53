"""After training: the test of a run, and the files of its folder, result.json last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

import lightning as L
from torch import Tensor

from mnet.data import ImageData, ImageFolder
from mnet.data.annotated_photographs import AnnotatedPhotographs
from mnet.data.summary import is_unbalanced
from mnet.files import write_json, write_torch
from mnet.models.cost import cost
from mnet.models.diagnostics import dead_kernels
from mnet.provenance import provenance
from mnet.quantization import save
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.examples import keep_examples
from mnet.studies.runs.metrics import MetricsFile
from mnet.studies.runs.progress import NotFinite
from mnet.studies.runs.store import FORMAT, RESULT, WEIGHTS, Result, remove_leftovers, write_correct
from mnet.studies.trial import Trial
from mnet.tasks.module import TaskModule
from mnet.training.arithmetic import Compile


class Training(NamedTuple):
    """How a run was trained."""

    steps: int
    seconds: float
    """Training time; in a pack, this run's share."""
    compile: Compile
    replicas: int = 1
    """Runs that were trained as one network, see `mnet.models.replicas`."""


def finish(
    trial: Trial,
    folder: Path,
    module: TaskModule,
    data: ImageData,
    trainer: L.Trainer,
    metrics: MetricsFile,
    training: Training,
    logged: Mapping[str, float],
) -> Result:
    """Write the files of a run that was trained and tested, the result last.

    Args:
        trial: The trial that was trained.
        folder: The folder of the run.
        module: The module with the trained network.
        data: The data set of the run.
        trainer: The Trainer that trained and tested it.
        metrics: The metrics logged in training.
        training: How it was trained.
        logged: The metrics logged in its test, from `test`.

    Returns:
        The content of result.json; empty in a process that is not rank zero.

    Raises:
        NotFinite: The test loss is NaN or infinite.
    """
    headline = trial.task.headline.name
    val_metric, val_loss = metrics.last(f"val/{headline}", "val/loss")
    tested = _test_metrics(trial, logged) if trial.tested else {}
    if not trainer.is_global_zero:
        return {}
    recipe, network_cost, dead = module.recipe, cost(module.network, data.resolution), dead_kernels(module.net)
    result = {
        **tested,
        **_over_classes(data, module.test_correct if trial.tested else None),
        **({"test_images": data.counts[-1]} if isinstance(data, AnnotatedPhotographs) and trial.tested else {}),
        f"val_{headline}": round(val_metric, 4),
        "val_loss": round(val_loss, 6),
        "resolution": data.resolution,
        "epochs": recipe.epochs,
        "params": network_cost.params,
        "madds": network_cost.madds,
        "train_seconds": round(training.seconds, 2),
        "images_per_second": round(training.steps * recipe.batch_size / max(training.seconds, 1e-9), 1),
        **({"dead_kernels": round(100 * dead[0].share, 4)} if dead else {}),
        **provenance(trainer.strategy.root_device, trainer.world_size),
        "replicas": training.replicas,
        "compile": training.compile,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": FORMAT,
    }
    if module.start is not None:
        result |= {"pretrained_share": round(module.start.share, 4), "start": str(module.start)}
    metrics.save()
    if trial.tested:
        keep_examples(module, data, folder)
        if (correct := module.test_correct) is not None:
            write_correct(folder, correct.numpy())
    if trial.quantized:
        save(module.net.cpu(), folder / WEIGHTS)
    else:
        write_torch(folder / WEIGHTS, module.net.state_dict())
    write_json(folder / RESULT, result)
    remove_leftovers(folder)
    return cast(Result, result)


def _over_classes(data: ImageData, correct: Tensor | None) -> dict[str, float]:
    """The mean accuracy over classes, if the images are a user's own and their classes differ in size."""
    if correct is None or not isinstance(data, ImageFolder) or not is_unbalanced(data.description()["classes"]):
        return {}
    labels = data.test_labels
    shares = labels.bincount(weights=correct.double()) / labels.bincount()
    return {"macro": round(100 * float(shares.mean()), 4)}


def test(trial: Trial, module: L.LightningModule, images: RunImages, trainer: L.Trainer) -> dict[str, float]:
    """Test a trained module and return the metrics it logs; empty if the trial is not to be tested."""
    if not trial.tested:
        return {}
    (logged,) = trainer.test(module, datamodule=images, verbose=False)
    return dict(logged)


def _test_metrics(trial: Trial, logged: Mapping[str, float]) -> dict[str, float]:
    """The task's metrics and the loss on test images.

    Raises:
        NotFinite: The loss is NaN or infinite.
    """
    loss = logged["test/loss"]
    if not math.isfinite(loss):
        raise NotFinite(f"the test loss is {loss}")
    metrics = {metric.name: round(logged[f"test/{metric.name}"], 4) for metric in trial.task.metrics}
    return {**metrics, "test_loss": round(loss, 6)}

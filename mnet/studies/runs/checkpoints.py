"""Checkpoints from which a run is resumed exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mnet.files import write_torch
from mnet.studies.runs.callbacks import ProgressMonitor
from mnet.studies.runs.metrics import MetricsFile, MetricsFiles
from mnet.studies.runs.progress import Stopped
from mnet.studies.runs.store import RESUME
from mnet.tasks.module import LOG_STEPS

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 3
"""Of the resume file; an older one is not used, since its run may not go on to the same numbers."""


class ResumeCheckpoint(Checkpoint):
    """Writes the state of a run at the end of each epoch and every `seconds`, and where it was asked to stop.

    A checkpoint that cannot be written (a full disk) costs only what would have to be trained again.
    """

    def __init__(
        self, folder: Path, seconds: float, watch: ProgressMonitor, metrics: MetricsFile | MetricsFiles
    ) -> None:
        self.path = folder / RESUME
        self.seconds = seconds
        self.watch, self.metrics = watch, metrics
        self._kept = time.perf_counter()
        self._loader: dict[str, int] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning restores a loader only where nobody has asked for its length before, as every schedule does;
        # without this a resumed run begins its epoch anew
        if self._loader is not None:
            trainer.train_dataloader.load_state_dict(self._loader)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        # Lightning logs a batch, and ends an epoch, after this hook: a run resumed here would not do either again
        if trainer.global_step % LOG_STEPS == 0 or batch_idx + 1 == trainer.num_training_batches:
            return
        stop, due = self.watch.stop, time.perf_counter() - self._kept >= self.seconds
        if trainer.world_size > 1:  # all save together, and the first decides; asked seldom, for an answer takes time
            if trainer.global_step % LOG_STEPS != 1:
                return
            stop, due = trainer.strategy.broadcast((stop, due))
        if stop or due:
            self.save(trainer)
        if stop:
            raise Stopped("asked to stop")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._kept = time.perf_counter()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["mnet"] = {"format": CHECKPOINT_FORMAT, "loader": trainer.train_dataloader.state_dict()}  # type: ignore[union-attr]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loader = checkpoint["mnet"]["loader"]

    def state_dict(self) -> dict[str, object]:
        return {"rows": self.metrics.rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.metrics.rows = list(state_dict["rows"])


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are whole or absent: where one cannot be written, training goes on without it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        try:
            write_torch(Path(path), checkpoint)
        except OSError as error:
            log.warning("%s cannot be written now: %s", path, error)


def usable_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from. One that is damaged, or of an older mnet, is removed: the run begins anew."""
    path = folder / RESUME
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["mnet"]["format"] == CHECKPOINT_FORMAT:
            return path
    except Exception as error:  # whatever torch raises for half a file
        log.warning("%s cannot be read (%s): the run begins anew", path, " ".join(str(error).split())[:200])
    path.unlink()
    return None

"""Checkpoints from which a run resumes exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
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

CHECKPOINT_FORMAT = 4
"""Version of the checkpoint file. Other versions are not used, since the run might continue to other numbers."""


class ResumeCheckpoint(Checkpoint):
    """Writes the state of a run after each epoch, every `seconds`, and when it is asked to stop.

    A checkpoint that cannot be written (a full disk) costs only the training since the last one.
    """

    def __init__(
        self,
        folder: Path,
        run_ids: Sequence[str],
        seconds: float,
        monitor: ProgressMonitor,
        metrics: MetricsFile | MetricsFiles,
    ) -> None:
        """
        Args:
            folder: The folder of the run, or of the first run of a pack.
            run_ids: One, or those of a pack in its order.
            seconds: Time between checkpoints.
            monitor: Knows whether to stop.
            metrics: Its rows are part of the checkpoint.
        """
        self.path = folder / RESUME
        self.run_ids, self.seconds = list(run_ids), seconds
        self.monitor, self.metrics = monitor, metrics
        self._saved_at = time.perf_counter()
        self._loader_state: dict[str, int] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning restores a loader only if its length was not read before, and every schedule reads it; without this
        # a resumed run would start its epoch from the beginning
        if self._loader_state is not None:
            trainer.train_dataloader.load_state_dict(self._loader_state)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        # Lightning logs a step, and ends an epoch, after this hook; a run resumed from here would do neither
        if trainer.global_step % LOG_STEPS == 0 or batch_idx + 1 == trainer.num_training_batches:
            return
        stop, due = self.monitor.stop, time.perf_counter() - self._saved_at >= self.seconds
        if trainer.world_size > 1:  # rank zero decides, all save; rarely, because a broadcast takes time
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
        self._saved_at = time.perf_counter()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        loader = trainer.train_dataloader.state_dict()  # type: ignore[union-attr]
        checkpoint["mnet"] = {"format": CHECKPOINT_FORMAT, "run_ids": self.run_ids, "loader": loader}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loader_state = checkpoint["mnet"]["loader"]

    def state_dict(self) -> dict[str, object]:
        return {"rows": self.metrics.rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.metrics.rows = list(state_dict["rows"])


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are whole or absent. If one cannot be written, training continues without it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        try:
            write_torch(Path(path), checkpoint)
        except OSError as error:
            log.warning("cannot write %s now: %s", path, error)


def usable_checkpoint(folder: Path, run_id: str) -> Path | None:
    """The checkpoint to resume a run from. One that is damaged, of another format or of another run is deleted, and the
    run starts again."""
    path = folder / RESUME
    if not path.exists():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["mnet"]["format"] == CHECKPOINT_FORMAT:
            if checkpoint["mnet"]["run_ids"] == [run_id]:
                return path
            log.warning("%s is not from run %s: the run starts again", path, run_id)
    except Exception as error:  # whatever torch raises for a truncated file
        log.warning("cannot read %s (%s): the run starts again", path, " ".join(str(error).split())[:200])
    path.unlink()
    return None

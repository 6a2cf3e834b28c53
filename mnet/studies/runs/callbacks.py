"""Lightning callbacks of every run: repeatable steps, progress, and dead kernels.

Order, augmentation and dropout are functions of seed, epoch and step (`mnet.data.batches`, `SeedSteps`). A checkpoint
therefore needs no state of a random generator, and a run that is resumed in the middle of an epoch computes the same
bits.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from mnet.data.batches import Shard
from mnet.models.diagnostics import DEAD_LOG, dead_kernels
from mnet.seeding import random_seed, seed_all
from mnet.studies.runs.progress import NotFinite, Progress, Report
from mnet.tasks.pack import Pack

REPORT_SECONDS = 1.0


class SeedSteps(Callback):
    """Makes the randomness of a step (dropout) a function of seed and step, so that a resumed run repeats it.

    Args:
        *seeds: One, or one per member of a `Pack`.
    """

    def __init__(self, *seeds: int) -> None:
        self.seeds = seeds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        keys = Shard(trainer.global_rank, trainer.world_size).keys
        seeds = [random_seed("step", seed, trainer.global_step, *keys) for seed in self.seeds]
        seed_all(seeds[0])
        if isinstance(pl_module, Pack):
            pl_module.seed_step(seeds)


class ProgressMonitor(Callback):
    """Reports progress, measures training time, and ends a run whose loss is NaN or infinite; a `Pack` only when every
    member's is."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.seconds = 0.0
        """Training time, without validation and including earlier sessions of the run."""
        self.stop = False
        """Whether the report asked to stop."""
        self.diverged: set[int] = set()
        """Members whose loss is NaN or infinite."""
        self._resumed_at = 0.0
        self._reported_at = 0.0
        self._progress = Progress(0, 1, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed_at = time.perf_counter()  # a run resumed within an epoch gets no on_train_epoch_start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = cast(dict[str, Any], outputs)
        due = self._is_due()
        if not due and step["loss"].is_cuda:
            return  # reading the loss would synchronise with the GPU
        members: Mapping[str, torch.Tensor] = step.get("members", step)
        losses = _read(members["loss"])
        self.diverged |= {i for i, loss in enumerate(losses) if not math.isfinite(loss)}
        if len(self.diverged) == len(losses) and trainer.is_global_zero:  # a NaN on one device reaches all of them
            raise NotFinite(f"the loss is {losses[0]}")
        if due:
            metric = list(members)[-1]
            latest = [value for i, value in enumerate(_read(members[metric])) if i not in self.diverged]
            recent = self._progress.value
            recent += (statistics.fmean(latest) - recent) * (0.2 if recent else 1.0)
            self._progress = Progress(trainer.global_step, int(trainer.estimated_stepping_batches), recent, metric)
            self._report_progress()

    def on_validation_batch_end(self, *_: object) -> None:
        if self._is_due():
            self._report_progress()

    def on_test_batch_end(self, *_: object) -> None:
        if self._is_due():
            self._report_progress()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        self.seconds += now - self._resumed_at
        self._resumed_at = now

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + time.perf_counter() - self._resumed_at}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def _is_due(self) -> bool:
        return time.perf_counter() - self._reported_at >= REPORT_SECONDS

    def _report_progress(self) -> None:
        self._reported_at = time.perf_counter()
        self.stop = bool(self.report(self._progress)) or self.stop


def _read(values: torch.Tensor) -> list[float]:
    """One number, or one per member, with a single copy from the device."""
    return [float(value) for value in values.detach().reshape(-1).cpu()]


class DeadKernels(Callback):
    """Logs after every epoch how many depthwise kernels have died, see `mnet.models.diagnostics`.

    `kernels/dead` is their share in percent, `kernels/dead/<layer>` that of each layer, and `kernels/least` the
    smallest norm as a fraction of a new kernel's; for a `Pack`, one of each per member.
    """

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        count = len(pl_module.members) if isinstance(pl_module, Pack) else 1
        for i, dead in enumerate(dead_kernels(cast(torch.nn.Module, pl_module.net), count)):
            prefix = f"{i}/" if isinstance(pl_module, Pack) else ""
            values = {DEAD_LOG: 100 * dead.share, "kernels/least": dead.least}
            values |= {f"{DEAD_LOG}/{layer}": 100 * share for layer, share in dead.layers.items()}
            pl_module.log_dict({f"{prefix}{name}": value for name, value in values.items()})

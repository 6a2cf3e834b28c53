"""What a run needs of Lightning beyond training: exact resume, a watch over the loss, and its metrics as a file.

Order, augmentation and dropout are functions of seed, epoch and step (`mnet.data.batches`, `SeedSteps`), so a
checkpoint needs no state of any random generator, and a run resumed in the middle of an epoch goes on to the same
bits.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from mnet.data.batches import Shard, random_seed
from mnet.models.diagnostics import LOGGED, dead_kernels
from mnet.provenance import seed_all
from mnet.studies.runs.progress import NotFinite, Progress, Report
from mnet.tasks.pack import Pack

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0


class SeedSteps(Callback):
    """Makes the randomness of a step (dropout) a function of seed and step, so that a resumed run repeats it; of a
    `Pack`, one seed a member."""

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
    """Reports progress, times training alone, and ends a run whose loss is no longer a number; of a `Pack`, when no
    member's is."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.seconds = 0.0
        """Spent on training, earlier sessions of the same run included."""
        self.stop = False
        """Whether the report asked for it."""
        self.lost: set[int] = set()
        """Members whose loss is no number."""
        self._since = 0.0
        self._told = 0.0
        self._progress = Progress(0, 1, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()  # also where a run goes on in the middle of an epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = cast(dict[str, Any], outputs)
        members: Sequence[dict[str, torch.Tensor]] = step.get("members", [step])
        now = time.perf_counter()
        tell = now - self._told >= REPORT_SECONDS
        if not tell and step["loss"].is_cuda:
            return  # reading a value waits for the device
        losses = [float(seen["loss"]) for seen in members]
        self.lost |= {i for i, loss in enumerate(losses) if not math.isfinite(loss)}
        if len(self.lost) == len(members) and trainer.is_global_zero:  # a device's loss is every other's a step later
            raise NotFinite(f"the loss is {losses[0]}")
        if tell:
            self._told = now
            recent = self._progress.value
            what = list(members[0])[-1]
            mean = statistics.fmean(float(seen[what]) for i, seen in enumerate(members) if i not in self.lost)
            recent += (mean - recent) * (0.2 if recent else 1.0)
            self._progress = Progress(trainer.global_step, int(trainer.estimated_stepping_batches), recent, what)
            self.stop = bool(self.report(self._progress)) or self.stop

    def on_validation_batch_end(self, *_: object) -> None:
        self._alive()

    def on_test_batch_end(self, *_: object) -> None:
        self._alive()

    def _alive(self) -> None:
        now = time.perf_counter()
        if now - self._told >= REPORT_SECONDS:
            self._told = now
            self.stop = bool(self.report(self._progress)) or self.stop

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds += time.perf_counter() - self._since
        self._since = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds + time.perf_counter() - self._since}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        self.seconds = state_dict["seconds"]


class DeadKernels(Callback):
    """Logs after every epoch `kernels/dead`, the share of depthwise kernels that have died, in percent, the same of
    every layer as `kernels/dead/<layer>`, and `kernels/least`, the smallest norm as a share of a new kernel's; of a
    `Pack`, each member's. See `mnet.models.diagnostics`."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        count = len(pl_module.members) if isinstance(pl_module, Pack) else 1
        for i, found in enumerate(dead_kernels(cast(torch.nn.Module, pl_module.net), count)):
            member = f"{i}/" if isinstance(pl_module, Pack) else ""
            own = {LOGGED: 100 * found.share, "kernels/least": found.least}
            own |= {f"{LOGGED}/{layer}": 100 * share for layer, share in found.layers.items()}
            pl_module.log_dict({f"{member}{name}": value for name, value in own.items()})

"""What a run needs of Lightning beyond training: exact resume, a watch over the loss, and its metrics as a file.

Order, augmentation and dropout are functions of seed, epoch and step (`mnet.data.batches`, `SeedSteps`), so a
checkpoint needs no state of any random generator, and a run resumed in the middle of an epoch goes on to the same
bits.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mnet.data.batches import Shard
from mnet.files import write_atomic, write_torch
from mnet.models.diagnostics import LOGGED, dead_kernels
from mnet.seeding import random_seed, seed_all
from mnet.studies.runs.progress import NotFinite, Progress, Report, Stopped
from mnet.studies.runs.store import METRICS, RESUME
from mnet.tasks.module import LOG_STEPS
from mnet.tasks.pack import Pack

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
CHECKPOINT_FORMAT = 3
"""Of the resume file; an older one is not used, since its run may not go on to the same numbers."""


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


class MetricsLogger(Logger):
    """A logger of metrics alone."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: object, **__: object) -> None:
        """config.yaml has them."""


class MetricsFile(MetricsLogger):
    """Every logged metric, one row a step and epoch, as CSV. Complete after a resume too, see `ResumeCheckpoint`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = dict(metrics)
        key = {"epoch": int(values.pop("epoch", 0)), "step": int(step or 0)}
        self.rows.append({**key, **{name: float(value) for name, value in values.items()}})

    def last(self, *names: str) -> list[float]:
        """The values logged last under these names; nan for one that never was."""
        return [next((row[name] for row in reversed(self.rows) if name in row), math.nan) for name in names]

    @rank_zero_only
    def save(self) -> None:
        names = list(dict.fromkeys(("epoch", "step", *(name for row in self.rows for name in row))))
        text = io.StringIO()
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        try:
            write_atomic(self.path, lambda stream: stream.write(text.getvalue().encode()))
        except OSError as error:  # written again at the next row, and last before the result
            log.warning("%s cannot be written now: %s", self.path, error)


class MetricsFiles(MetricsLogger):
    """A `MetricsFile` a member of a `Pack`, each with what that one would have logged alone."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.files = [MetricsFile(folder) for folder in folders]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        own: dict[int, dict[str, float]] = {}
        for name, value in metrics.items():  # as 0/val/loss, and the epoch of all
            member, slash, rest = name.partition("/")
            if slash:
                own.setdefault(int(member), {"epoch": metrics.get("epoch", 0)})[rest] = value
        for number, logged in own.items():
            self.files[number].log_metrics(logged, step)

    @property
    def rows(self) -> list[list[dict[str, float]]]:
        return [file.rows for file in self.files]

    @rows.setter
    def rows(self, rows: Sequence[Sequence[dict[str, float]]]) -> None:
        for file, own in zip(self.files, rows, strict=True):
            file.rows = list(own)

    def save(self) -> None:
        for file in self.files:
            file.save()


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

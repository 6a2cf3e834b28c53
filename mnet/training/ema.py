"""An exponential moving average of the weights, warmed up."""

from __future__ import annotations

from itertools import chain

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor


class WarmEMA(WeightAveraging):
    """Evaluates an average of weights and batch norm statistics; training goes on with the weights themselves.

    The decay after n updates is min(`decay`, (1 + n) / (10 + n)), so that a short run is not averaged with its
    own beginning. Source: V3 §6.1 for 0.9999; the warm-up is TensorFlow's.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the average, which Lightning keeps on the CPU, to the weights: they would else come to it, each by
        itself, at every step. The count of updates stays where reading it waits for no device."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """The update in as many calls as there are types, where Lightning's asks the device how often it has been."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        average, done = self._average_model.module, int(self._average_model.n_averaged)
        pairs = zip(
            chain(average.parameters(), average.buffers()),
            chain(pl_module.parameters(), pl_module.buffers()),
            strict=True,
        )
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []  # counts of batches; the first time, all
        for pair in pairs:
            (averaged if done and pair[0].is_floating_point() else copied).append(pair)
        if averaged:
            kept = min(self.decay, (1 + done) / (10 + done))
            torch._foreach_lerp_([mean for mean, _ in averaged], [now for _, now in averaged], 1 - kept)
        if copied:
            torch._foreach_copy_([mean for mean, _ in copied], [now for _, now in copied])
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Left to `on_fit_end`, which also comes where a run is resumed with nothing left to train."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)

"""An exponential moving average of the weights, warmed up."""

from __future__ import annotations

from itertools import chain

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor


class WarmEMA(WeightAveraging):
    """Evaluates averaged weights and batch norm statistics; training continues on the weights themselves.

    The decay after n updates is min(`decay`, (1 + n) / (10 + n)), so that the average of a short run forgets its
    beginning. Source: V3 §6.1 for 0.9999; the warm-up is TensorFlow's.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] = []
        """(tensor of the average, the same tensor of the network)."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the average on the weights' device, and the count of updates on the CPU: otherwise every step would copy
        each weight to the CPU, or wait for the GPU's count. Releases of Lightning differ in where they keep both."""
        average = self._average_model
        assert average is not None
        average.module.to(pl_module.device)
        average.n_averaged = average.n_averaged.cpu()
        self._pairs = list(
            zip(
                chain(average.module.parameters(), average.module.buffers()),
                chain(pl_module.parameters(), pl_module.buffers()),
                strict=True,
            )
        )

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Update in two fused calls, without synchronising; Lightning's own update reads its count from the device."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None
        updates = int(self._average_model.n_averaged)
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []  # batch counts; at the first update, everything
        for pair in self._pairs:
            (averaged if updates and pair[0].is_floating_point() else copied).append(pair)
        if averaged:
            decay = min(self.decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_([mean for mean, _ in averaged], [value for _, value in averaged], 1 - decay)
        if copied:
            torch._foreach_copy_([mean for mean, _ in copied], [value for _, value in copied])
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Done in `on_fit_end` instead, which also runs when a resumed run has nothing left to train."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)

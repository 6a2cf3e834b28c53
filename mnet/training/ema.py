"""An exponential moving average of the weights, warmed up."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WarmEMA(WeightAveraging):
    """Evaluates an average of weights and batch norm statistics; training goes on with the weights themselves.

    The decay after n updates is min(`decay`, (1 + n) / (10 + n)), so that a short run is not averaged with its
    own beginning. Source: V3 §6.1 for 0.9999; the warm-up is TensorFlow's.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
            warm = (1 + int(updates)) / (10 + int(updates))
            get_ema_multi_avg_fn(min(decay, warm))(averaged, current, updates)

        super().__init__(multi_avg_fn=average)
        self.decay = decay

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Left to `on_fit_end`, which also comes where a run is resumed with nothing left to train."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)

"""What all tasks share: a network, a recipe, and how metrics are logged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric, MetricCollection

from mnet.models.layers import is_depthwise
from mnet.models.network import create_model
from mnet.models.spec import Network
from mnet.tasks.drawing import Limit, legend, show_image
from mnet.training.arithmetic import Compile, compiled
from mnet.training.optim import RMSpropTF
from mnet.training.recipes import Recipe, bn_momentum_for, lr_factor
from mnet.weights.transfer import TransferReport

LOG_STEPS = 50
Batch = tuple[Tensor, Any]
"""Images (N, C, H, W), and what they show."""


class Trained(L.LightningModule):
    """A network and the recipe that it is trained by."""

    net: nn.Module
    recipe: Recipe
    _compiled: Callable[..., Any] | None = None

    def compile_training(self, mode: Compile) -> None:
        """Compile what the network does in training steps; evaluation, whose batches differ in size, is left as it is.

        Raises:
            ConfigError: As `mnet.training.arithmetic.check_compile`.
        """
        if mode != "off":
            self._compiled = compiled(self.net.forward, mode)

    def answers(self, images: Tensor) -> Any:
        """What the network says of images (N, C, H, W)."""
        return (self._compiled if self._compiled and self.training else self.net)(images)

    def on_fit_start(self) -> None:
        momentum = bn_momentum_for(self.recipe, int(self.trainer.estimated_stepping_batches))
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        optimizer = make_optimizer(self.net, self.recipe)
        schedule = LambdaLR(optimizer, lr_factor(self.recipe, steps, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TaskModule(Trained):
    """Trains a `Network` by a `Recipe`; logs `train/loss`, and `val/` and `test/` followed by `loss` and each of the
    task's metrics, in percent.

    A subclass says what a step returns, what is measured, and how (`training_step`, `metrics`, `evaluate`).
    """

    start: TransferReport | None = None
    """What it started with of other weights."""
    shown: ClassVar[tuple[str, ...]]
    """Of what `metrics` compute, the names that are logged: those of the task."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        if recipe.dropout is not None:
            network = replace(network, dropout=recipe.dropout)
        self.network = network
        self.recipe = recipe
        self.net = create_model(network).to(memory_format=torch.channels_last)
        self.val_metrics = self._metrics("val/")
        self.test_metrics = self._metrics("test/")

    def _metrics(self, prefix: str) -> MetricCollection:
        every: dict[str, Metric | MetricCollection] = {**self.metrics(), "loss": MeanMetric(sync_on_compute=False)}
        return MetricCollection(every, prefix=prefix, compute_groups=False)

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """What is measured on evaluation images, not synchronised: every device sees every image."""

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`loss`, and last what is shown of it while it trains, if that is another number."""

    @abstractmethod
    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        """Update the metrics; returns the scores."""

    @abstractmethod
    def predict(self, images: Tensor) -> list[Any]:
        """What is seen in each of the images (N, C, H, W)."""

    @staticmethod
    @abstractmethod
    def fitted(image: Image.Image, side: int) -> Image.Image:
        """An image of any size as the network sees those of its data set, whose resolution is `side`."""

    drawn: ClassVar[bool] = False
    """Whether what is seen can be drawn beside what is there: examples of such runs are kept."""
    seen_from: ClassVar[Callable[..., Any]]
    """What is seen, from its parts by name, where it has several."""

    @staticmethod
    def truth(target: Any, image: int) -> Any:
        """Where it is `drawn`: what an image of a batch really shows, as `predict` would say it."""
        raise NotImplementedError

    @staticmethod
    @abstractmethod
    def onto(seen: Any, size: tuple[int, int], image: tuple[int, int]) -> Any:
        """What was seen in an image of height and width `size`, on the same of the size `image`."""

    @classmethod
    def draw(cls, figure: Figure, image: np.ndarray, seen: Any, names: Sequence[str], limit: Limit) -> None:
        """The image, (H, W) or (H, W, 3) uint8, and what is seen in it."""
        axes = figure.subplots()
        show_image(axes, image)
        cls.draw_on(axes, seen, names, limit)
        if labels := cls.key(seen, limit):
            legend(axes, labels, names)

    @staticmethod
    def draw_on(axes: Axes, seen: Any, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        """What is seen, over an image that is drawn already; text of `size` points."""

    @staticmethod
    def key(seen: Any, limit: Limit) -> list[int]:
        """The classes that a legend has to name, as indices of the names."""
        return []

    @staticmethod
    @abstractmethod
    def tell(seen: Any, names: Sequence[str], limit: Limit) -> dict[str, object]:
        """The same as plain data."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:  # reading a value waits for the device
            values = cast(dict[str, Tensor], outputs)
            self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(self.test_metrics, batch)

    @property
    def test_correct(self) -> Tensor | None:
        """Which test images the last test had right, (N,) bool on the CPU, in their order; None where an image is
        not right or wrong."""
        return None

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.read(self.val_metrics, "val/"))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.read(self.test_metrics, "test/"))

    def read(self, metrics: MetricCollection, prefix: str) -> dict[str, Tensor]:
        """What has been measured since it was read last, as it is logged."""
        values = metrics.compute()
        metrics.reset()
        shown = {f"{prefix}{name}": 100 * values[f"{prefix}{name}"] for name in self.shown}
        return {f"{prefix}loss": values[f"{prefix}loss"], **shown}


def make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser over two groups: what decays, and what does not (batch norms, biases, and depthwise
    kernels where the recipe says so)."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in net.modules():
        depthwise = is_depthwise(module)
        for name, param in module.named_parameters(recurse=False):
            decays = name == "weight" and not isinstance(module, nn.BatchNorm2d)
            (decayed if decays and (recipe.decay_depthwise or not depthwise) else free).append(param)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    lr = recipe.lr * recipe.batch_size / recipe.lr_batch
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, recipe.momentum, nesterov=True, fused=True)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, (recipe.momentum, 0.999), fused=True)
    return RMSpropTF(groups, lr, momentum=recipe.momentum)

"""What all tasks share: a network, its recipe, and the logging of metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, Metric, MetricCollection

from mnet.models.layers import is_depthwise
from mnet.models.network import create_model
from mnet.models.single_values import check_batch_of_one
from mnet.models.spec import Network
from mnet.training.arithmetic import NOT_COMPILED, Compile, check_compile, compiled
from mnet.training.optim import RMSpropTF
from mnet.training.recipes import Recipe, bn_momentum_for, lr_factor
from mnet.training.recorded import RecordedNetwork, RecordedStep, can_record, on_gpu
from mnet.weights.transfer import TransferReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnet.tasks.drawing import Limit

LOG_STEPS = 50
"""Steps between logs of training metrics."""
Batch = tuple[Tensor, Any]
"""Images (N, C, H, W) and the task's targets."""


class TrainedModule(L.LightningModule):
    """A network, trained by a recipe."""

    net: nn.Module
    recipe: Recipe
    step_reads_values: bool = False
    """Whether a step reads values from the device: then only its network can be recorded, not the step."""
    compiled_as: Compile = "off"
    """How the training steps so far were computed."""
    _mode: Compile = "off"
    _records: bool = False
    _recorded: RecordedStep | None = None
    _recorded_net: RecordedNetwork | None = None
    _replayed: bool = False
    _compiled: Callable[..., Any] | None = None

    def compile_training(self, mode: Compile) -> None:
        """Compile or record training steps, but not evaluation, whose batches differ in size.

        Raises:
            ConfigError: As `mnet.training.arithmetic.check_compile`.
        """
        check_compile(mode)
        self._mode = mode
        if mode not in NOT_COMPILED:
            self._compiled, self.compiled_as = compiled(self.net.forward, mode), mode

    @abstractmethod
    def step(self, batch: Any) -> dict[str, Any]:
        """`loss` of a training batch, with its gradient. The last entry is what the progress display shows: another
        value, or `loss` itself."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """`step`; on a GPU, recorded on the first call unless that was turned off."""
        self._replayed = False
        if not (self._records and on_gpu(batch)):
            return self.step(batch)
        self.compiled_as = "graphs"
        if self.step_reads_values:
            self._recorded_net = self._recorded_net or RecordedNetwork(self.net)
            return self.step(batch)
        self._recorded = self._recorded or RecordedStep(self, self.step)
        self._replayed = self._recorded.takes(batch)
        return dict(self._recorded(batch)) if self._replayed else self.step(batch)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, unless the replay in `training_step` included it."""
        if not self._replayed:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear the last step's gradients, unless a replay has overwritten them; in place if there is a recording."""
        if not self._replayed:
            optimizer.zero_grad(set_to_none=self._recorded is None)

    def run_network(self, images: Tensor) -> Any:
        """The network's output for images (N, C, H, W), in training compiled or recorded as `compile_training` set."""
        if self.training and self._recorded_net is not None:
            return self._recorded_net(images)
        return (self._compiled if self._compiled and self.training else self.net)(images)

    def on_fit_start(self) -> None:
        self._recorded = self._recorded_net = None  # the weights may have moved in memory
        self._records = self._mode in ("auto", "graphs") and can_record(self.trainer)
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


class TaskModule(TrainedModule):
    """Trains a `Network` by a `Recipe`; logs `train/loss`, and `loss` and the task's metrics, in percent, after `val/`
    and `test/`.

    A subclass defines the training step, the metrics, how they are updated, and predictions. A prediction is what
    `predict` returns for one image.
    """

    start: TransferReport | None = None
    """What was copied from pretrained weights at the start."""
    metric_names: ClassVar[tuple[str, ...]]
    """The values computed by `metrics` that are logged: the metrics of the task."""

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
        metrics: dict[str, Metric | MetricCollection] = {**self.metrics(), "loss": MeanMetric(sync_on_compute=False)}
        return MetricCollection(metrics, prefix=prefix, compute_groups=False)

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """The metrics of an evaluation; not synchronised, since every device evaluates all images."""

    @abstractmethod
    def evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        """Update the metrics and return the network's output."""

    @abstractmethod
    def predict(self, images: Tensor) -> list[Any]:
        """The prediction for each of the images (N, C, H, W)."""

    @staticmethod
    @abstractmethod
    def fit_image(image: Image.Image, side: int) -> Image.Image:
        """An image of any size, scaled and cropped like the images of a data set with resolution `side`."""

    drawable: ClassVar[bool] = False
    """Whether predictions are drawn next to the truth: such runs keep examples."""
    prediction_type: ClassVar[Callable[..., Any]]
    """The type of predictions that consist of several named tensors."""

    @staticmethod
    def truth(target: Any, image: int) -> Any:
        """The target of one image of a batch, as a prediction; only if the task is `drawable`."""
        raise NotImplementedError

    @staticmethod
    @abstractmethod
    def resize_prediction(prediction: Any, size: tuple[int, int], image: tuple[int, int]) -> Any:
        """A prediction for an input of `size`, scaled to the original image.

        Args:
            prediction: One of the values of `predict`.
            size: Height and width of the network's input, in pixels.
            image: Height and width of the original image, in pixels.
        """

    @classmethod
    def draw(cls, figure: Figure, image: np.ndarray, prediction: Any, names: Sequence[str], limit: Limit) -> None:
        """Draw an image, (H, W) or (H, W, 3) uint8, and its prediction."""
        from mnet.tasks.drawing import draw_legend, show_image

        axes = figure.subplots()
        show_image(axes, image)
        cls.draw_over(axes, prediction, names, limit)
        if labels := cls.legend_classes(prediction, limit):
            draw_legend(axes, labels, names)

    @staticmethod
    def draw_over(axes: Axes, prediction: Any, names: Sequence[str], limit: Limit, size: float = 7) -> None:
        """Draw a prediction over its image; text of `size` points."""

    @staticmethod
    def legend_classes(prediction: Any, limit: Limit) -> list[int]:
        """The classes that a legend must name, as indices into the names."""
        return []

    @staticmethod
    @abstractmethod
    def to_dict(prediction: Any, names: Sequence[str], limit: Limit) -> dict[str, object]:
        """A prediction as plain data."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """
        Raises:
            ConfigError: The batch has one image, too few for a batch norm: the trial's batch divided among devices, or
                the only training image.
        """
        images = batch[0]
        if len(images) == 1 and batch_idx == 0:
            check_batch_of_one(self.network, images.shape[-1])

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:  # reading a value synchronises
            values = cast(dict[str, Tensor], outputs)
            self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(self.test_metrics, batch)

    @property
    def test_correct(self) -> Tensor | None:
        """Whether each test image was classified correctly in the last test, (N,) bool on the CPU; None for tasks in
        which an image is not simply right or wrong."""
        return None

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.read(self.val_metrics, "val/"))

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.read(self.test_metrics, "test/"))

    def read(self, metrics: MetricCollection, prefix: str) -> dict[str, Tensor]:
        """The values of the metrics since the last call, as they are logged."""
        values = metrics.compute()
        metrics.reset()
        percents = {f"{prefix}{name}": 100 * values[f"{prefix}{name}"] for name in self.metric_names}
        return {f"{prefix}loss": values[f"{prefix}loss"], **percents}


def make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser over two groups: with weight decay, and without (batch norms, biases, and depthwise
    kernels if the recipe excludes them)."""
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

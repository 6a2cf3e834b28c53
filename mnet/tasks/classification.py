"""Classification: a network, a recipe, and the three numbers reported of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from mnet.network import create_model
from mnet.quantization import observe
from mnet.spec import Network
from mnet.training.optim import RMSpropTF
from mnet.training.recipes import QAT_SEEING, Recipe, bn_momentum_for, lr_factor

Batch = tuple[Tensor, Tensor]
"""Pictures (N, C, H, W) and class indices (N,)."""
LOG_STEPS = 50


class ImageClassifier(L.LightningModule):
    """Trains a `Network` by a `Recipe`; logs `train/{top1,loss}`, `val/{top1,top5,loss}` and `test/{top1,top5,loss}`.

    Accuracies are percentages. With fewer than five classes, top5 is top-k over all of them.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        if recipe.dropout is not None:
            network = replace(network, dropout=recipe.dropout)
        self.network = network
        self.recipe = recipe
        self.net: nn.Module = create_model(network).to(memory_format=torch.channels_last)
        self.val_metrics = self._metrics("val/")
        self.test_metrics = self._metrics("test/")

    def _metrics(self, prefix: str) -> MetricCollection:
        classes = self.network.num_classes
        own: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}  # every device sees every picture
        return MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro", **own),
                "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", **own),
                "loss": MeanMetric(sync_on_compute=False),
            },
            prefix=prefix,
            compute_groups=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_fit_start(self) -> None:
        momentum = bn_momentum_for(self.recipe, int(self.trainer.estimated_stepping_batches))
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        scores = self.net(images)
        loss = functional.cross_entropy(scores, labels, label_smoothing=self.recipe.label_smoothing)
        return {"loss": loss, "top1": 100 * (scores.detach().argmax(1) == labels).float().mean()}

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step % LOG_STEPS == 0:  # reading a value waits for the device
            values = cast(dict[str, Tensor], outputs)
            self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def on_test_start(self) -> None:
        self._correct: list[Tensor] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self._evaluate(self.test_metrics, batch)
        self._correct.append(scores.argmax(1) == batch[1])

    @property
    def test_correct(self) -> Tensor:
        """Which test pictures the last test had right: (N,) bool on the CPU, in their order."""
        return torch.cat(self._correct).cpu()

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)

    def _evaluate(self, metrics: MetricCollection, batch: Batch) -> Tensor:
        images, labels = batch
        scores = self.net(images)
        metrics["top1"].update(scores, labels)
        metrics["top5"].update(scores, labels)
        metrics["loss"].update(functional.cross_entropy(scores, labels), len(labels))
        return scores

    def _report(self, metrics: MetricCollection) -> None:
        values = metrics.compute()
        self.log_dict({name: value if name.endswith("loss") else 100 * value for name, value in values.items()})
        metrics.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        optimizer = make_optimizer(self.net, self.recipe)
        schedule = LambdaLR(optimizer, lr_factor(self.recipe, steps, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class QuantizedClassifier(ImageClassifier):
    """Trains on a network prepared by `mnet.quantization`. Its ranges widen by training pictures alone, and not in
    the last part of the training."""

    def __init__(self, network: Network, recipe: Recipe, prepared: nn.Module) -> None:
        super().__init__(network, recipe)
        self.net = prepared
        self._seeing: bool | None = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._observe(self.trainer.global_step < QAT_SEEING * self.trainer.estimated_stepping_batches)

    def on_validation_start(self) -> None:
        self._observe(False)

    def _observe(self, seeing: bool) -> None:
        if seeing != self._seeing:
            observe(self.net, seeing)
            self._seeing = seeing


def make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimiser over two groups: what decays, and what does not (batch norms, biases, and depthwise
    kernels where the recipe says so)."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in net.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        for name, param in module.named_parameters(recurse=False):
            decays = name == "weight" and not isinstance(module, nn.BatchNorm2d)
            (decayed if decays and (recipe.decay_depthwise or not depthwise) else free).append(param)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    lr = recipe.lr * recipe.batch_size / recipe.lr_batch
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, recipe.momentum, nesterov=True, foreach=True)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, (recipe.momentum, 0.999), foreach=True)
    return RMSpropTF(groups, lr, momentum=recipe.momentum)

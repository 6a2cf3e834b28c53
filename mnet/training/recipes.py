"""How to train, as data: the papers' recipes and ours for short budgets. One table, `RECIPES`.

A recipe says nothing of network or data. Learning rates are scaled linearly from `lr_batch` to the batch in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mnet.errors import ConfigError, unknown


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train."""

    epochs: int
    epoch_steps: int | None = None
    """Training steps an epoch; None = every image once."""
    batch_size: int
    optimizer: Literal["sgd", "adamw", "rmsprop_tf"]
    lr: float
    """The schedule's highest learning rate, at a batch of `lr_batch` images."""
    lr_batch: int
    schedule: Literal["onecycle", "exponential"]
    """onecycle: up for `warmup`, then a cosine to zero. exponential: x `decay` every `decay_epochs`, in steps."""
    momentum: float = 0.9
    """SGD's (Nesterov), RMSprop's, or AdamW's first beta."""
    weight_decay: float = 0.0
    """L2 on weights; never on batch norms and biases."""
    decay_depthwise: bool = True
    """Whether weight decay reaches depthwise kernels."""
    warmup: float = 0.0
    """Fraction of all steps with a rising learning rate."""
    decay: float = 1.0
    decay_epochs: float = 1.0
    label_smoothing: float = 0.0
    augment: bool = True
    """Whether training images are augmented, in the data set's own way."""
    dropout: float | None = None
    """None = the network's own."""
    bn_momentum: float = 0.1
    """For long runs, in PyTorch's convention (1 - TensorFlow's decay); short runs raise it, see `bn_momentum_for`."""
    ema: float = 0.0
    """Decay of the average of the weights that is evaluated; 0 = none. It warms up as (1 + n) / (10 + n)."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # Ours: a few minutes on a laptop's core.
        "quick": Recipe(
            epochs=2,
            batch_size=96,
            optimizer="sgd",
            lr=0.2,
            lr_batch=96,
            schedule="onecycle",
            warmup=0.3,
            label_smoothing=0.05,
            augment=False,  # no gain within two epochs
            weight_decay=1e-4,
        ),
        # Ours: to convergence on small images.
        "full": Recipe(
            epochs=40,
            batch_size=128,
            optimizer="sgd",
            lr=0.2,
            lr_batch=128,
            schedule="onecycle",
            warmup=0.1,
            label_smoothing=0.05,
            weight_decay=5e-4,
        ),
        # Ours: boxes and masks of `scenes`, minutes on a laptop's core.
        "scenes": Recipe(
            epochs=3,
            batch_size=32,
            optimizer="sgd",
            lr=0.1,
            lr_batch=32,
            schedule="onecycle",
            warmup=0.3,  # shorter, and SSDLite is slow to find its first boxes
            weight_decay=1e-4,
        ),
        # torchvision's for SSDLite on COCO: SGD 0.15 at 8 x 24 images, cosine, 660 epochs.
        "ssdlite": Recipe(
            epochs=660,
            batch_size=192,
            optimizer="sgd",
            lr=0.15,
            lr_batch=192,
            schedule="onecycle",
            weight_decay=4e-5,
        ),
        # V1 §3.2: RMSprop, little or no weight decay on depthwise filters; rate and decay are the released code's,
        # L2 and average are V2's.
        "v1": Recipe(
            epochs=200,
            batch_size=64,
            optimizer="rmsprop_tf",
            lr=0.045,
            lr_batch=64,
            schedule="exponential",
            decay=0.94,
            decay_epochs=2.5,
            weight_decay=4e-5,
            decay_depthwise=False,
            bn_momentum=0.003,
            ema=0.9999,
        ),
        # V2 §6.1: RMSprop 0.9 / 0.9, weight decay 4e-5, 0.045 and 0.98 per epoch at a batch of 96 a worker.
        "v2": Recipe(
            epochs=300,
            batch_size=96,
            optimizer="rmsprop_tf",
            lr=0.045,
            lr_batch=96,
            schedule="exponential",
            decay=0.98,
            weight_decay=4e-5,
            bn_momentum=0.003,
            ema=0.9999,
        ),
        # V3 §6.1: RMSprop 0.9, 0.1 at a batch of 4096, 0.99 every 3 epochs, dropout 0.8 kept, L2 1e-5, EMA 0.9999.
        "v3": Recipe(
            epochs=600,
            batch_size=4096,
            optimizer="rmsprop_tf",
            lr=0.1,
            lr_batch=4096,
            schedule="exponential",
            decay=0.99,
            decay_epochs=3.0,
            warmup=0.01,
            weight_decay=1e-5,
            dropout=0.2,
            bn_momentum=0.01,
            ema=0.9999,
        ),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: No such recipe; the message has the nearest name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


QAT_EPOCHS = 0.1
QAT_LR = 0.1
QAT_SEEING = 0.7


def quantization_aware(recipe: Recipe) -> Recipe:
    """How a network that `recipe` has trained is trained on with int8 rounding simulated: `QAT_EPOCHS` of its epochs,
    one at least, from `QAT_LR` of its rate to zero; the ranges are frozen after `QAT_SEEING` of the steps.

    Chosen on validation. Nothing decays and nothing is averaged: with batch norms folded, weights carry their scale.
    """
    return replace(
        recipe,
        epochs=max(1, round(QAT_EPOCHS * recipe.epochs)),
        lr=QAT_LR * recipe.lr,
        schedule="onecycle",
        warmup=0.0,
        weight_decay=0.0,
        ema=0.0,
    )


def bn_momentum_for(recipe: Recipe, steps: int) -> float:
    """Batch norm's momentum for a run of `steps`: the recipe's own, or what makes 40 time constants fit.

    With V3's 0.01 a run of 430 steps spans 4 time constants: its running statistics are those of early weights
    and of their initial value, and evaluation is at chance while training looks well.
    """
    return max(recipe.bn_momentum, min(0.1, 40 / steps))


def lr_factor(recipe: Recipe, steps: int, epochs: int) -> Callable[[int], float]:
    """The learning rate at a step, as a fraction of the highest. A pure function of the step."""
    if steps < 1:
        raise ConfigError(f"a run needs at least 1 step, not {steps}")
    rising = recipe.warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return 0.04 + 0.96 * step / rising
        if recipe.schedule == "onecycle":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))
        return recipe.decay ** (step * epochs / steps // recipe.decay_epochs)

    return factor

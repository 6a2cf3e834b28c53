"""Training recipes as data: the papers' and those for short budgets. One table, `RECIPES`.

A recipe is independent of network and data. Learning rates are scaled linearly from `lr_batch` to the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mnet.errors import ConfigError, unknown

Augmentation = Literal["none", "flip_crop", "resized_crop"]
"""flip_crop: mirrored at random, and moved by a few pixels, as each data set defines it. resized_crop: a part of
random size, aspect and position, mirrored at random, as for ImageNet."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: duration, optimiser, schedule, regularisation."""

    epochs: int
    epoch_steps: int | None = None
    """Training steps per epoch; None = every image once."""
    batch_size: int
    optimizer: Literal["sgd", "adamw", "rmsprop_tf"]
    lr: float
    """The schedule's highest learning rate, for a batch of `lr_batch` images."""
    lr_batch: int
    schedule: Literal["warmup_cosine", "exponential"]
    """warmup_cosine: a linear warm-up, then a cosine to zero. exponential: x `decay` every `decay_epochs`, after a
    linear warm-up."""
    momentum: float = 0.9
    """SGD's (Nesterov), RMSprop's, or AdamW's first beta."""
    weight_decay: float = 0.0
    """L2 on weights, but not on batch norms and biases."""
    decay_depthwise: bool = True
    """Whether weight decay applies to depthwise kernels."""
    warmup: float = 0.0
    """Fraction of all steps in which the learning rate rises."""
    decay: float = 1.0
    decay_epochs: float = 1.0
    label_smoothing: float = 0.0
    augment: Augmentation = "flip_crop"
    """How training images are augmented; data sets with boxes or masks take `flip_crop` for `resized_crop`."""
    dropout: float | None = None
    """None = the network's rate."""
    bn_momentum: float = 0.1
    """In PyTorch's convention (1 - TensorFlow's decay); raised for short runs, see `bn_momentum_for`."""
    ema: float = 0.0
    """Decay of the averaged weights that are evaluated; 0 = no average. See `mnet.training.ema`."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # For small images: a few minutes on one core of a laptop.
        "quick": Recipe(
            epochs=2,
            batch_size=96,
            optimizer="sgd",
            lr=0.2,
            lr_batch=96,
            schedule="warmup_cosine",
            warmup=0.3,
            label_smoothing=0.05,
            augment="none",  # no gain within two epochs
            weight_decay=1e-4,
        ),
        # For small images: to convergence.
        "full": Recipe(
            epochs=40,
            batch_size=128,
            optimizer="sgd",
            lr=0.2,
            lr_batch=128,
            schedule="warmup_cosine",
            warmup=0.1,
            label_smoothing=0.05,
            weight_decay=5e-4,
        ),
        # For boxes and masks of `scenes`: minutes on one core of a laptop.
        "scenes": Recipe(
            epochs=3,
            batch_size=32,
            optimizer="sgd",
            lr=0.1,
            lr_batch=32,
            schedule="warmup_cosine",
            warmup=0.3,  # with less, SSDLite is slow to find its first boxes
            weight_decay=1e-4,
        ),
        # torchvision, SSDLite on COCO: SGD, 0.15 for 8 x 24 images, cosine, 660 epochs.
        "ssdlite": Recipe(
            epochs=660,
            batch_size=192,
            optimizer="sgd",
            lr=0.15,
            lr_batch=192,
            schedule="warmup_cosine",
            weight_decay=4e-5,
        ),
        # V1 §3.2: RMSprop, little or no weight decay on depthwise filters. Learning rate and its decay are from the
        # released code, L2 and the average of weights from V2.
        "v1": Recipe(
            epochs=200,
            batch_size=64,
            optimizer="rmsprop_tf",
            lr=0.045,
            lr_batch=64,
            schedule="exponential",
            decay=0.94,
            decay_epochs=2.5,
            augment="resized_crop",
            weight_decay=4e-5,
            decay_depthwise=False,
            bn_momentum=0.003,
            ema=0.9999,
        ),
        # V2 §6.1: RMSprop 0.9 / 0.9, weight decay 4e-5, 0.045 and 0.98 per epoch, batches of 96 per worker.
        "v2": Recipe(
            epochs=300,
            batch_size=96,
            optimizer="rmsprop_tf",
            lr=0.045,
            lr_batch=96,
            schedule="exponential",
            decay=0.98,
            augment="resized_crop",
            weight_decay=4e-5,
            bn_momentum=0.003,
            ema=0.9999,
        ),
        # V3 §6.1: RMSprop 0.9, 0.1 for batches of 4096, 0.99 every 3 epochs, dropout keeps 0.8, L2 1e-5, EMA 0.9999.
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
            augment="resized_crop",
            weight_decay=1e-5,
            dropout=0.2,
            bn_momentum=0.01,
            ema=0.9999,
        ),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of that name in `RECIPES`.

    Raises:
        ConfigError: Unknown name; the message suggests the nearest one.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


QAT_EPOCHS, QAT_LR = 0.1, 0.1
"""Epochs and learning rate of quantization-aware training, as fractions of the recipe's."""
QAT_OBSERVED = 0.7
"""Fraction of the steps of quantization-aware training in which activation ranges are still updated."""


def quantization_aware(recipe: Recipe) -> Recipe:
    """The recipe for training that continues after `recipe` with simulated int8 rounding.

    `QAT_EPOCHS` of the epochs, but at least one, on a cosine from `QAT_LR` of the learning rate to zero. Both were
    chosen on validation images. No weight decay and no average: with batch norms folded, the weights carry their scale.
    """
    return replace(
        recipe,
        epochs=max(1, round(QAT_EPOCHS * recipe.epochs)),
        lr=QAT_LR * recipe.lr,
        schedule="warmup_cosine",
        warmup=0.0,
        weight_decay=0.0,
        ema=0.0,
    )


def bn_momentum_for(recipe: Recipe, steps: int) -> float:
    """Batch norm's momentum for a run of `steps`: the recipe's, raised until the run spans 40 time constants.

    With V3's 0.01 a run of 430 steps spans 4 time constants. Its running statistics then reflect early weights and
    their initial value, and evaluation is at chance level while training looks fine.
    """
    return max(recipe.bn_momentum, min(0.1, 40 / steps))


def lr_factor(recipe: Recipe, steps: int, epochs: int) -> Callable[[int], float]:
    """The schedule: step -> learning rate as a fraction of the highest."""
    if steps < 1:
        raise ConfigError(f"a run needs at least 1 step, not {steps}")
    rising = recipe.warmup * steps

    def factor(step: int) -> float:
        if step < rising:
            return 0.04 + 0.96 * step / rising
        if recipe.schedule == "warmup_cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))
        return recipe.decay ** (step * epochs / steps // recipe.decay_epochs)

    return factor

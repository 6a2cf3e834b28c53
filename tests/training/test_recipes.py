"""Recipes: schedules, averaged weights, and batch norm's momentum."""

from dataclasses import replace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mnet
from mnet import ConfigError
from mnet.tasks import ImageClassifier
from mnet.tasks.module import make_optimizer
from mnet.training import RECIPES, bn_momentum_for, lr_factor, recipe
from mnet.training.ema import WarmEMA


def test_exponential_schedule_falls_in_the_papers_steps():
    factor = lr_factor(replace(RECIPES["v3"], warmup=0.0), steps=90, epochs=9)
    assert [factor(step) for step in (0, 29, 30, 59, 60)] == pytest.approx([1, 1, 0.99, 0.99, 0.99**2])


def test_warmup_cosine_rises_to_the_highest_rate_and_ends_at_zero():
    quick = RECIPES["quick"]
    factor = lr_factor(quick, steps=100, epochs=1)
    rates = [factor(step) for step in range(101)]
    assert max(rates) == rates[round(100 * quick.warmup)] == 1
    assert rates[0] == pytest.approx(0.04)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean quick"):
        recipe("quik")


def garments(count: int, seed: int) -> DataLoader:
    """Ten classes that differ in the position of a bright square."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 28, 28, generator=generator)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[0, 8 * row : 8 * row + 6, 7 * column : 7 * column + 6] += 1.5
    return DataLoader(TensorDataset(images, labels), batch_size=32)


def trainer(**settings) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **settings)


def accuracy(recipe_used, *, frozen_momentum: float | None) -> float:
    L.seed_everything(0, verbose=False)
    network = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)
    model = ImageClassifier(replace(network, blocks=network.blocks[:4]), recipe_used)
    if frozen_momentum is not None:
        model.on_fit_start = lambda: None  # keep the network's momentum
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = frozen_momentum
    fitted = trainer()
    fitted.fit(model, garments(32 * 80, seed=0))
    (tested,) = fitted.test(model, garments(500, seed=1), verbose=False)
    return tested["test/top1"]


def test_a_short_run_needs_the_scaled_batch_norm_momentum():
    """With V3's 0.01 the running statistics of an 80-step run still reflect its start: evaluation at chance."""
    adamw = replace(RECIPES["quick"], optimizer="adamw", lr=2e-3, lr_batch=128, batch_size=128, bn_momentum=0.01)
    assert bn_momentum_for(adamw, 80) == pytest.approx(0.1)
    assert bn_momentum_for(adamw, 2000) == pytest.approx(0.02)
    assert bn_momentum_for(adamw, 100_000) == pytest.approx(0.01)
    assert accuracy(adamw, frozen_momentum=0.01) < 40
    assert accuracy(adamw, frozen_momentum=None) > 80


def test_weight_decay_excludes_batch_norms_biases_and_v1s_depthwise_kernels():
    net = mnet.create_model("mobilenet_v1", num_classes=10)
    for name, spared in (("v2", 0), ("v1", 13)):
        decayed, free = make_optimizer(net, RECIPES[name]).param_groups
        assert decayed["weight_decay"] == RECIPES[name].weight_decay > 0
        assert free["weight_decay"] == 0
        assert all(param.ndim > 1 for param in decayed["params"])
        assert sum(param.ndim > 1 for param in free["params"]) == spared
        assert len(decayed["params"]) + len(free["params"]) == len(list(net.parameters()))


def test_averaged_weights_warm_up_and_replace_the_weights_after_training():
    L.seed_everything(0, verbose=False)
    network = mnet.describe("mobilenet_v2", num_classes=10, in_channels=1, width=0.25)
    model = ImageClassifier(network, replace(RECIPES["v2"], epochs=1, batch_size=32))
    recorded: list[torch.Tensor] = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            recorded.append(pl_module.net.classifier.weight.detach().clone())

    trainer(callbacks=[WarmEMA(0.9999), Record()]).fit(model, garments(32 * 6, seed=0))
    average = recorded[0]
    for updates, weights in enumerate(recorded[1:], start=1):
        decay = (1 + updates) / (10 + updates)
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(model.net.classifier.weight.detach(), average)
    assert not torch.allclose(average, recorded[-1])

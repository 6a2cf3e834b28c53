"""The training loops of torchvision and timm, for comparison with `loops`: the same images and the same recipe.

torchvision's loop has its own net, NCHW; images decoded, augmented and normalised one by one with PIL and torchvision's
transforms; top-1, top-5 and loss read at every step.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models

from benchmarks.images import ColourGarments, ImageFiles
from benchmarks.loops import RECIPE, How, Steps, forever
from mnet.latency.timing import synchronise

TIMM = {"mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_small": "mobilenetv3_small_100"}


def torchvision_loop(model: str, data: ColourGarments, device: str, workers: int | None) -> Steps:
    """In the style of torchvision's references/classification/train.py.

    Args:
        model: Name of torchvision's network.
        data: The images.
        device: Where it trains.
        workers: Processes that decode, augment and normalise images one by one, 0 = this one; None uses our batches.
    """
    net = models.get_model(model, num_classes=data.num_classes).to(device).train()
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, RECIPE.momentum, weight_decay=RECIPE.weight_decay)
    if workers is None:
        batches = forever(data.batches("train", train=True, device=torch.device(device)))
    else:
        many: dict[str, Any] = {"num_workers": min(workers, os.cpu_count() or 1), "pin_memory": device != "cpu"}
        if workers:  # as in a script, whatever started this process
            many |= {"persistent_workers": True, "multiprocessing_context": "fork"}
        batches = forever(DataLoader(ImageFiles(data), data.batch_size, shuffle=True, drop_last=True, **many))

    def steps(count: int) -> float:
        How().apply()
        synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            images, labels = (part.to(device, non_blocking=True) for part in next(batches))
            scores = net(images)
            loss = criterion(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits = scores.topk(5).indices == labels[:, None]
            loss.item(), hits[:, 0].float().mean().item(), hits.any(1).float().mean().item()
        synchronise(device)
        return time.perf_counter() - start

    return steps


def timm_loop(model: str, data: ColourGarments) -> Steps:
    """In the style of timm's train.py, on the CPU: its net, transforms, loader, loss, optimiser and schedule."""
    import timm  # takes seconds, and no other loop needs it
    import timm.data
    import timm.loss
    import timm.optim
    import timm.scheduler

    files = ImageFiles(data)
    net = timm.create_model(TIMM[model], num_classes=data.num_classes)
    net = net.to(memory_format=torch.channels_last).train()
    criterion = timm.loss.LabelSmoothingCrossEntropy(RECIPE.label_smoothing)
    optimizer = timm.optim.create_optimizer_v2(net, "sgd", 0.1, RECIPE.weight_decay, RECIPE.momentum)
    shape = (3, data.resolution, data.resolution)
    preprocessing: dict[str, Any] = {"mean": data.mean, "std": data.std, "color_jitter": None, "num_workers": 0}
    train: dict[str, Any] = {"is_training": True, "use_prefetcher": False, "batch_size": data.batch_size}
    loader = timm.data.create_loader(cast(Any, files), shape, **train, **preprocessing)
    schedule, _ = timm.scheduler.create_scheduler_v2(
        optimizer, "cosine", num_epochs=1, step_on_epochs=False, updates_per_epoch=len(loader)
    )
    batches, updates = forever(loader), itertools.count(1)

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            images, labels = next(batches)
            loss = criterion(net(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step_update(next(updates))
        return time.perf_counter() - start

    return steps

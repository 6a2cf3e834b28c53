"""The training loops of the benchmarks: ours with Lightning and ours without; those of others are in `other_loops`.

All train on the same garments in RGB with crop and flip, SGD with momentum, and cross entropy with the same label
smoothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import mnet
from benchmarks.images import ColourGarments
from benchmarks.paused_training import PausedTraining
from mnet import cuda_graphs
from mnet.data import ImageData
from mnet.latency import Sample
from mnet.latency.timing import synchronise
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.datamodule import RunImages
from mnet.studies.runs.images import load_data
from mnet.studies.runs.trainer import TRAINER_DEFAULTS
from mnet.studies.trial import Trial
from mnet.tasks.classification import Batch, ImageClassifier
from mnet.tasks.module import TrainedModule, make_optimizer
from mnet.training import recipes
from mnet.training.arithmetic import Compile, compiled, set_tensor_cores
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import lr_factor

RECIPE = recipes.recipe("quick")
WARM_UP = 5
"""Steps until compiled or recorded code is ready."""

Steps = Callable[[int], float]
"""Runs a number of training steps, continuing from the last call, and returns their seconds."""
Step = Callable[[Tensor, Tensor], None]
"""Trains on a batch: images and labels."""


def sample_of(steps: Steps, count: int) -> Sample:
    """Seconds per step, as the mean of `count` steps."""
    return lambda: steps(count) / count


@dataclass(frozen=True)
class How:
    """How a loop computes its steps."""

    precision: str = "fp32"
    channels_last: bool = True
    compile: Compile = "off"
    benchmark: bool = False
    """Whether cuDNN chooses its kernels by timing them."""
    on_device: bool = True
    """Whether the images are in the GPU's memory; otherwise each batch is copied from pinned memory."""

    @property
    def needs_warm_up(self) -> bool:
        """Whether the first steps compile or record."""
        return self.compile != "off"

    def apply(self) -> None:
        """Apply the settings that hold for the whole process."""
        set_tensor_cores(self.precision == "tf32")
        torch.backends.cudnn.benchmark = self.benchmark


def study_loop(
    network: mnet.Network, data: ColourGarments, how: How, device: str, folder: Path, resources: ExitStack
) -> Steps:
    """A run as a study trains it, with its callbacks and its log, until `resources` close."""
    module = ImageClassifier(network, RECIPE)
    return train_in_steps(module, data, (0,), how, device, folder, resources)


def train_in_steps(
    module: TrainedModule,
    data: ImageData | Sequence[ImageData],
    seeds: Sequence[int],
    how: How,
    device: str,
    folder: Path,
    resources: ExitStack,
) -> Steps:
    """Training by Lightning, until `resources` close."""
    module.compile_training(how.compile)

    def train(pause: PausedTraining) -> None:
        trainer = L.Trainer(
            max_epochs=10_000,
            enable_checkpointing=False,
            callbacks=[ProgressMonitor(lambda progress: None), SeedSteps(*seeds), pause],
            logger=CSVLogger(folder, "steps", version=""),
            limit_val_batches=0,
            precision="bf16-mixed" if how.precision == "bf16" else "32-true",
            **{**TRAINER_DEFAULTS, "accelerator": device.partition(":")[0]},  # type: ignore[arg-type]
        )
        trainer.fit(module, datamodule=RunImages(data))

    how.apply()
    training = PausedTraining(train, device)
    resources.callback(training.close)

    def steps(count: int) -> float:
        how.apply()
        return training.steps(count)

    steps(WARM_UP if how.needs_warm_up else 1)
    return steps


def bare_loop(network: mnet.Network, data: ColourGarments, how: How, device: str) -> Steps:
    """The same net, batches, optimiser and schedule without Lightning, logging and accuracy. With CUDA graphs, the
    whole step including its update is one graph, at one learning rate: only other kernels could be faster."""
    memory_format = torch.channels_last if how.channels_last else torch.contiguous_format
    net = mnet.create_model(network).to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(net, RECIPE)
    schedule = LambdaLR(optimizer, lr_factor(RECIPE, len(data.train_dataloader()), RECIPE.epochs))
    batches = forever(data.batches("train", train=True, device=torch.device(device)))
    forward = compiled(net.forward, "off" if how.compile == "graphs" else how.compile)

    def step(images: Tensor, labels: Tensor) -> None:
        autocast = torch.autocast(device, torch.bfloat16, enabled=how.precision == "bf16", cache_enabled=False)
        with autocast:
            scores = forward(images.contiguous(memory_format=memory_format))
            loss = functional.cross_entropy(scores, labels, label_smoothing=RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not recorded:
            schedule.step()

    how.apply()
    recorded = how.compile == "graphs" and device != "cpu"
    update = record_step(step, next(batches)) if recorded else step

    def steps(count: int) -> float:
        how.apply()
        synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            update(*next(batches))
        synchronise(device)
        return time.perf_counter() - start

    steps(WARM_UP if how.needs_warm_up else 1)
    return steps


def record_step(step: Step, batch: Batch) -> Step:
    """Record a training step as one CUDA graph, after warm-up steps; for batches of one shape."""
    images, labels = (part.clone() for part in batch)
    replay = cuda_graphs.record(lambda: step(images, labels))

    def update(new_images: Tensor, new_labels: Tensor) -> None:
        images.copy_(new_images)
        labels.copy_(new_labels)
        replay()

    return update


def bare_trials(trials: Sequence[Trial]) -> float:
    """Seconds to train and evaluate trials one after another, in a plain loop on one thread: the arithmetic of
    `run_trial` without Lightning, checkpoints, files and engine. Reading the data is not timed."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as run_trial does
    seconds = 0.0
    for trial in trials:
        recipe = trial.full_recipe()
        data = load_data(trial, recipe)
        start = time.perf_counter()
        torch.manual_seed(trial.seed)
        net = mnet.create_model(trial.network(data.num_classes, data.in_channels))
        net = net.to(memory_format=torch.channels_last).train()
        optimizer, batches = make_optimizer(net, recipe), data.train_dataloader()
        schedule = LambdaLR(optimizer, lr_factor(recipe, len(batches) * recipe.epochs, recipe.epochs))
        for epoch in range(recipe.epochs):
            batches.set_epoch(epoch)
            for images, labels in batches:
                loss = functional.cross_entropy(net(images), labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            evaluate(net, data.val_dataloader())
        evaluate(net, data.test_dataloader())
        seconds += time.perf_counter() - start
    return seconds


@torch.inference_mode()
def evaluate(net: nn.Module, batches: Iterable[Batch]) -> float:
    """Top-1 in percent."""
    net.eval()
    correct = torch.cat([net(images).argmax(1) == labels for images, labels in batches])
    net.train()
    return 100 * float(correct.float().mean())


def network(model: str, data: ColourGarments) -> mnet.Network:
    return mnet.describe(model, num_classes=data.num_classes, in_channels=data.in_channels)


def forever(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a loader, epoch after epoch."""
    while True:
        yield from loader

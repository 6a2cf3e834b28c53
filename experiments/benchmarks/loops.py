"""The training loops of the benchmark: ours through Lightning, ours bare, and as in torchvision's and timm's scripts.

All train on the same garments in RGB with crop and flip, SGD with momentum, and cross entropy with the same label
smoothing. torchvision's loop differs: its own net, NCHW; images decoded, augmented and normalised one by one with PIL
and torchvision's transforms; top-1, top-5 and loss read at every step. It loads images in the main process, because
everything runs on one core.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, models, transforms

import mnet
from mnet.data import Augment, FashionMNIST, Photographs
from mnet.data.in_memory import Images, resize
from mnet.latency import Sample
from mnet.latency.timing import synchronise
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.prepare import load_data
from mnet.studies.runs.trainer import TRAINER_DEFAULTS
from mnet.studies.trial import Trial
from mnet.tasks.classification import Batch, ImageClassifier
from mnet.tasks.module import make_optimizer
from mnet.training import recipes
from mnet.training.arithmetic import Compile, compiled
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import lr_factor

PAD = 4
TIMM = {"mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_small": "mobilenetv3_small_100"}
RECIPE = recipes.recipe("quick")
IMAGES = 12_800
"""Training images of all loops."""
COMPILE_STEPS = 5
"""Steps until compiled code is ready, and recorded as a CUDA graph."""


def compile_on(device: str) -> Compile:
    """How the fastest loop compiles."""
    return "off" if device == "cpu" else "reduce-overhead"


class ColourGarments(FashionMNIST):
    """A part of Fashion-MNIST in RGB, as torchvision's nets expect."""

    in_channels = 3
    mean: tuple[float, ...] = FashionMNIST.mean * 3  # type: ignore[assignment]
    std: tuple[float, ...] = FashionMNIST.std * 3  # type: ignore[assignment]
    default_augment: ClassVar[Augment] = Augment(flip=True, pad=PAD)

    def read(self) -> tuple[Images, Images]:
        size = IMAGES + self.settings.val_size
        train, test = (Images(part.images[:size].expand(-1, 3, -1, -1), part.labels[:size]) for part in super().read())
        return train, test


def garments(data_dir: Path, resolution: int, batch_size: int) -> ColourGarments:
    """The data of all loops, from `data_dir` or downloaded.

    Raises:
        DataError: Fashion-MNIST cannot be found or downloaded.
    """
    data = ColourGarments(data_dir=data_dir, batch_size=batch_size, resolution=resolution)
    data.prepare_data()
    data.setup("fit")
    return data


class StepTimes(L.Callback):
    """The times at which some steps end; other steps do not wait for the device."""

    def __init__(self, device: str, steps: Sequence[int]) -> None:
        self.device, self.steps = device, steps
        self.times: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if batch_idx in self.steps:
            synchronise(self.device)
            self.times.append(time.perf_counter())


def lightning_loop(
    model: str, data: ColourGarments, steps: int, device: str, folder: Path, compile: Compile = "off"
) -> Sample:
    """Seconds per step of a trial as a study runs it. A sample is a short run; its first steps are not timed."""
    classifier = ImageClassifier(network(model, data), RECIPE)
    classifier.compile_training(compile)
    first = 0 if compile == "off" else COMPILE_STEPS

    def sample() -> float:
        ends = StepTimes(device, (first, first + steps))
        trainer = L.Trainer(
            max_epochs=1,
            enable_checkpointing=False,
            callbacks=[ProgressMonitor(lambda progress: None), SeedSteps(0), ends],
            logger=CSVLogger(folder, "bench", version=""),
            limit_train_batches=first + steps + 1,
            limit_val_batches=0,
            **{**TRAINER_DEFAULTS, "accelerator": device.partition(":")[0]},  # type: ignore[arg-type]
        )
        trainer.fit(classifier, datamodule=data)
        return (ends.times[1] - ends.times[0]) / steps

    return sample


def bare_loop(model: str, data: ColourGarments, steps: int, device: str, compile: Compile = "off") -> Sample:
    """Seconds per step of the same net, batches, optimiser and schedule without Lightning, logging and accuracy."""
    net = mnet.create_model(network(model, data)).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(net, RECIPE)
    schedule = LambdaLR(optimizer, lr_factor(RECIPE, len(data.train_dataloader()), RECIPE.epochs))
    batches = forever(data.batches("train", train=True, device=torch.device(device)))
    forward = compiled(net.forward, compile)

    def train(steps: int) -> None:
        for _ in range(steps):
            images, labels = next(batches)
            loss = functional.cross_entropy(forward(images), labels, label_smoothing=RECIPE.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    train(0 if compile == "off" else COMPILE_STEPS)

    def sample() -> float:
        synchronise(device)
        start = time.perf_counter()
        train(steps)
        synchronise(device)
        return (time.perf_counter() - start) / steps

    return sample


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """One image at a time, as in torchvision's data sets."""

    def __init__(self, data: ColourGarments) -> None:
        train, _ = data.read()
        resized = resize(train.images[:IMAGES], data.resolution)  # in advance, as ours are
        self.pixels = resized.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = train.labels[:IMAGES].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.resolution, padding=PAD),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def torchvision_loop(model: str, data: ColourGarments, steps: int, device: str) -> Sample:
    """Seconds per step in the style of torchvision's references/classification/train.py."""
    net = models.get_model(model, num_classes=data.num_classes).to(device).train()
    criterion = nn.CrossEntropyLoss(label_smoothing=RECIPE.label_smoothing)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, RECIPE.momentum, weight_decay=RECIPE.weight_decay)
    batches = forever(DataLoader(ImageFiles(data), data.batch_size, shuffle=True, num_workers=0, drop_last=True))

    def sample() -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(steps):
            images, labels = (part.to(device) for part in next(batches))
            scores = net(images)
            loss = criterion(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits = scores.topk(5).indices == labels[:, None]
            loss.item(), hits[:, 0].float().mean().item(), hits.any(1).float().mean().item()
        synchronise(device)
        return (time.perf_counter() - start) / steps

    return sample


def timm_loop(model: str, data: ColourGarments, steps: int, device: str) -> Sample:
    """Seconds per step in the style of timm's train.py: its net, transforms, loader, loss, optimiser and schedule."""
    import timm  # takes seconds, and no other loop needs it
    import timm.data
    import timm.loss
    import timm.optim
    import timm.scheduler

    files = ImageFiles(data)
    net = timm.create_model(TIMM[model], num_classes=data.num_classes)
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
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

    def sample() -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(steps):
            images, labels = (part.to(device) for part in next(batches))
            loss = criterion(net(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step_update(next(updates))
        synchronise(device)
        return (time.perf_counter() - start) / steps

    return sample


def reading(folder: Path, side: int) -> dict[str, Sample]:
    """Seconds per photograph of `folder/train`, read into training batches in one process: `ours`, and `theirs` as in
    torchvision's reference script."""
    data = Photographs(data_dir=folder, batch_size=16, resolution=side, val_size=1, workers=0)
    data.prepare_data()
    data.setup("fit")
    theirs = datasets.ImageFolder(
        str(folder / "train"),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(side, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float),
                transforms.Normalize(data.mean, data.std),
            ]
        ),
    )
    loaders: dict[str, Iterable[Batch]] = {
        "ours": data.train_dataloader(),
        "theirs": DataLoader(theirs, 16, shuffle=True, num_workers=0),
    }

    def read(loader: Iterable[Batch]) -> Sample:
        def sample() -> float:
            start = time.perf_counter()
            count = sum(len(labels) for _, labels in loader)
            return (time.perf_counter() - start) / count

        return sample

    return {name: read(loader) for name, loader in loaders.items()}


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> None:
    """JPEGs of smooth waves and noise, in two classes and splits, with about as many bytes per pixel as photographs."""
    generator = np.random.default_rng(0)
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    for split, images in (("train", count), ("test", 2)):
        for i in range(images):
            smooth = 120 + 90 * np.sin(x[..., None] * (1, 1.3, 0.7) + i) * np.cos(y[..., None])
            pixels = np.clip(smooth + generator.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)
            path = folder / split / f"class{i % 2}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=88)


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
    """Epoch after epoch."""
    while True:
        yield from loader

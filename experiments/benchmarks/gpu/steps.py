"""The speed of a training step on a GPU: as a study trains, with every switch, in bare loops and in torchvision's.

All variants of a network and resolution are timed in the same rounds. A Lightning variant is one long training, in a
thread that runs only while it is sampled, so that a sample is steps alone and starts nothing.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import models

import mnet
from benchmarks import loops
from benchmarks.goals import throughput_row
from benchmarks.gpu.part import GrowingTable, Settings, Step
from mnet.data.in_memory import Images
from mnet.latency import Sample
from mnet.latency.paired import time_in_rounds
from mnet.latency.timing import synchronise
from mnet.studies.runs.callbacks import ProgressMonitor, SeedSteps
from mnet.studies.runs.trainer import TRAINER_DEFAULTS, silence_lightning
from mnet.tasks.classification import ImageClassifier
from mnet.tasks.module import TrainedModule, make_optimizer
from mnet.training.arithmetic import Compile, compiled, set_tensor_cores

STEPS = "steps.csv"
KEYS = ("what", "ours", "theirs")
CASES = (
    ("mobilenet_v3_small", 32),
    ("mobilenet_v3_large", 224),
    ("mobilenet_v3_large", 32),
    ("mobilenet_v2", 224),
    ("mobilenet_v2", 32),
    ("mobilenet_v3_small", 224),
)
BATCH = 128
SAMPLE_SECONDS = 0.05
"""About how long a sample takes, in seconds."""
SMALL, LARGE_IMAGES = 64, 2560
"""Pixels up to which all images of the benchmark are taken; and how many are beyond."""
COMPILED = (("mobilenet_v3_small", 32), ("mobilenet_v3_large", 32))
"""Cases that torch.compile takes part in: it compiles for a minute each."""
COMPILE_SECONDS = 75.0


@dataclass(frozen=True)
class How:
    """How a loop computes its steps."""

    precision: str = "fp32"
    channels_last: bool = True
    compile: Compile = "off"
    benchmark: bool = False
    """Whether cuDNN chooses its kernels by timing them."""
    on_device: bool = True
    """Whether the images are in the GPU's memory; else each batch is copied from pinned memory."""

    def apply(self) -> None:
        """Set what holds for the whole process."""
        set_tensor_cores(self.precision == "tf32")
        torch.backends.cudnn.benchmark = self.benchmark


@dataclass(frozen=True)
class Reference:
    """torchvision's loop."""

    workers: int | None
    """Processes that decode, augment and normalise images one by one; None takes our batches."""


STUDY = "as a study trains"
VARIANTS: Mapping[str, How | Reference] = {
    STUDY: How(compile="auto"),
    "bare loop, CUDA graphs": How(compile="graphs"),
    "a study, not recorded": How(),
    "torchvision's loop, images on the GPU": Reference(None),
    "torchvision's loop": Reference(8),
    "bare loop": How(),
    "a study in bf16": How("bf16", compile="auto"),
    "bare loop, CUDA graphs, bf16": How("bf16", compile="graphs"),
    "a study in tf32": How("tf32", compile="auto"),
    "bare loop, CUDA graphs, tf32": How("tf32", compile="graphs"),
    "bare loop, CUDA graphs, NCHW": How(channels_last=False, compile="graphs"),
    "a study, images copied": How(compile="auto", on_device=False),
    "a study, kernels chosen by timing": How(compile="auto", benchmark=True),
    "a study in bf16, kernels chosen by timing": How("bf16", compile="auto", benchmark=True),
    "bare loop, NCHW": How(channels_last=False),
    "bare loop, bf16": How("bf16"),
}
"""The most telling first, for the time may not suffice for all."""
BARE_COMPILED: Mapping[str, How] = {
    "bare loop, torch.compile": How(compile="default"),
    "bare loop, torch.compile with CUDA graphs": How(compile="reduce-overhead"),
}
REHEARSED = (
    *("bare loop, CUDA graphs, NCHW", "torchvision's loop", "torchvision's loop, images on the GPU"),
    *("a study in bf16", "a study, images copied", *BARE_COMPILED),
)
CASE_SECONDS = 75.0
"""What all loops of a case take; with less, the later ones are left out. Cases that are not reached are measured by
the next call."""
BUILDING = 0.6
"""Share of a case's time after which no further loop is built."""
GOALS = {"bare loop, CUDA graphs": 0.9, "bare loop, torch.compile with CUDA graphs": 0.9}
"""Ratio of throughputs that a study should reach; 1 of everything else."""


def run(settings: Settings) -> None:
    """Write `steps.csv`: a row per case and variant, the study's throughput over the variant's.

    Raises:
        DataError: Fashion-MNIST cannot be found.
    """
    table = GrowingTable(settings.out / STEPS, KEYS, settings.device)
    cases = CASES[:1] if settings.rehearse else CASES
    for model, resolution in cases:
        if settings.left_s <= CASE_SECONDS / 3 and not settings.rehearse:
            return
        _compare(table, settings, model, resolution, min(CASE_SECONDS, settings.left_s), VARIANTS)
    for model, resolution in COMPILED[: 1 if settings.rehearse else None]:
        if settings.rehearse or settings.left_s > COMPILE_SECONDS:
            how = {name: How() if settings.rehearse else how for name, how in BARE_COMPILED.items()}
            _compare(table, settings, model, resolution, 10, {STUDY: VARIANTS[STUDY], **how})


def _compare(
    table: GrowingTable,
    settings: Settings,
    model: str,
    resolution: int,
    budget_s: float,
    variants: Mapping[str, How | Reference],
) -> None:
    """Time the variants that the table lacks, beside the study's own step, and torchvision's loops once."""
    started = time.monotonic()
    batch = 8 if settings.rehearse else BATCH
    case = f"training step, {resolution} px, batch {batch}"
    ours = f"{model}, {STUDY}"
    others = [name for name in variants if name != STUDY and (case, ours, name) not in table]
    others = [name for name in others if name in REHEARSED] if settings.rehearse else others
    if not others:
        return
    host = any(isinstance(how := variants[name], How) and not how.on_device for name in others)
    data = {on: garments(settings, resolution, batch, on_device=on) for on in ((True, False) if host else (True,))}
    network = settings.network(model, data[True].num_classes, data[True].in_channels)
    silence_lightning()
    torch.set_num_threads(1)  # as in a study
    samples: dict[str, Sample] = {}
    peaks: dict[str, float] = {}
    with ExitStack() as resources:
        resources.callback(free_memory)
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        for name in [STUDY, *others]:
            if time.monotonic() - started > BUILDING * budget_s and not settings.rehearse:
                print(f"  {model}, {case}: no time for {name} and what follows", flush=True)
                break
            how = variants[name]
            if isinstance(how, Reference):
                build = partial(torchvision_loop, model, data[True], settings.device, how.workers)
            elif "study" in name:
                path = folder / name.replace(" ", "-")
                build = partial(study_loop, network, data[how.on_device], how, settings.device, path, resources)
            else:
                build = partial(bare_loop, network, data[True], how, settings.device)
            build_loop(samples, peaks, name, build)
        if STUDY not in samples:
            return
        budget = max(1.0, budget_s - (time.monotonic() - started))
        times = time_in_rounds(samples, STUDY, budget_s=budget, half_width=0.02, warmup=2, skip_failures=True)
    for name in times.times:
        if name == STUDY:
            continue
        row = throughput_row(case, ours, name, times.ratio(name, STUDY), at_least=GOALS.get(name, 1.0))
        table.add(
            {
                **vars(row),
                "images_per_second": round(batch / times.ms(name) * 1000),
                "ours_images_per_second": round(batch / times.ms(STUDY) * 1000),
                "peak_gb": peaks.get(name, ""),
                "ours_peak_gb": peaks.get(STUDY, ""),
            }
        )
        print(f"  {model}, {case}: {row.theirs}: {row.ratio:.3f} {row.interval} {row.verdict}", flush=True)
    for name, reason in times.failed.items():
        print(f"  {model}, {case}: {name} failed: {reason}", flush=True)


def build_loop(samples: dict[str, Sample], peaks: dict[str, float], name: str, build: Callable[[], Sample]) -> None:
    """Add a loop and the memory that it needs at most, in GiB; one that fails is left out, with a line."""
    before = _allocated(reset=True)
    try:
        sample = build()
        sample()
    except Exception as error:
        print(f"  {name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return
    samples[name] = sample
    if torch.cuda.is_available():
        peaks[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def _allocated(*, reset: bool) -> int:
    if not torch.cuda.is_available():
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def free_memory() -> None:
    """Give the GPU back what nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()


class PausedTraining(L.Callback):
    """Runs a training in a thread, some steps at a time."""

    def __init__(self, train: Callable[[PausedTraining], object], device: str) -> None:
        self.device = device
        self._left, self._go, self._done = 0, threading.Event(), threading.Event()
        self._closed = False
        self._error: BaseException | None = None

        def body() -> None:
            self._go.wait()
            try:
                if not self._closed:
                    train(self)
            except BaseException as error:
                self._error = error
            finally:
                self._done.set()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._left -= 1
        if self._left == 0:
            synchronise(self.device)
            self._go.clear()
            self._done.set()
            self._go.wait()
            if self._closed:
                raise ClosedError

    def steps(self, count: int) -> float:
        """Seconds of this many steps, one after another.

        Raises:
            RuntimeError: The training has ended.
        """
        self._left = count
        self._done.clear()
        synchronise(self.device)
        start = time.perf_counter()
        self._go.set()
        self._done.wait()
        if self._error is not None:
            raise RuntimeError(f"the training ended: {self._error}")
        return time.perf_counter() - start

    def close(self) -> None:
        """End the training, whose memory is free then."""
        self._closed = True
        self._go.set()
        self._thread.join(10)


class ClosedError(Exception):
    """The training is no longer needed."""


def steps_for(seconds_per_step: float) -> int:
    """How many steps a sample takes."""
    return max(1, min(50, round(SAMPLE_SECONDS / seconds_per_step)))


class Garments(loops.ColourGarments):
    """A part of Fashion-MNIST in RGB: as many images as fit in memory at 224 px."""

    def read(self) -> tuple[Images, Images]:
        size = LARGE_IMAGES if self.resolution > SMALL else loops.IMAGES
        train, test = super().read()
        return Images(*(part[: size + self.settings.val_size] for part in train)), Images(*(p[:2] for p in test))


class GarmentsOnHost(Garments):
    """The same in the memory of the CPU: every batch is augmented there and copied to the GPU."""

    def images_on(self, split: str, device: torch.device | None = None) -> Images:
        return self._splits[split]


class Noise(GarmentsOnHost):
    """For a rehearsal: a few images of noise, which need no file."""

    def prepare_data(self) -> None:
        """Nothing."""

    def read(self) -> tuple[Images, Images]:
        images = torch.randint(256, (200, 3, 28, 28), dtype=torch.uint8)
        return Images(images, torch.arange(200) % 10), Images(images[:2], torch.arange(2))


def garments(settings: Settings, resolution: int, batch: int, *, on_device: bool = True) -> Garments:
    """The images of a case.

    Raises:
        DataError: Fashion-MNIST cannot be found or downloaded.
    """
    kind = Noise if settings.rehearse else Garments if on_device else GarmentsOnHost
    data = kind(data_dir=settings.data_dir, batch_size=batch, resolution=resolution, val_size=100)
    data.prepare_data()
    data.setup("fit")
    return data


def study_loop(
    network: mnet.Network, data: Garments, how: How, device: str, folder: Path, resources: ExitStack
) -> Sample:
    """Seconds per step of a run as a study trains it, with its callbacks and its log."""
    module = ImageClassifier(network, loops.RECIPE)
    return train_in_steps(module, data, (0,), how, device, folder, resources)


def train_in_steps(
    module: TrainedModule,
    data: L.LightningDataModule,
    seeds: Sequence[int],
    how: How,
    device: str,
    folder: Path,
    resources: ExitStack,
) -> Sample:
    """Seconds per step of a training by Lightning, which `resources` end."""
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
        trainer.fit(module, datamodule=data)

    how.apply()
    training = PausedTraining(train, device)
    resources.callback(training.close)
    training.steps(loops.COMPILE_STEPS)
    count = steps_for(training.steps(3) / 3)

    def sample() -> float:
        how.apply()
        return training.steps(count) / count

    return sample


def bare_loop(network: mnet.Network, data: Garments, how: How, device: str) -> Sample:
    """Seconds per step without Lightning, schedule, logging and accuracy. As CUDA graphs, the whole step with its
    update is one graph: nothing can be quicker without other kernels."""
    memory_format = torch.channels_last if how.channels_last else torch.contiguous_format
    net = mnet.create_model(network).to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(net, loops.RECIPE)
    batches = loops.forever(data.batches("train", train=True, device=torch.device(device)))
    forward = compiled(net.forward, "off" if how.compile == "graphs" else how.compile)

    def step(images: Tensor, labels: Tensor) -> None:
        autocast = torch.autocast(device, torch.bfloat16, enabled=how.precision == "bf16", cache_enabled=False)
        with autocast:
            scores = forward(images.contiguous(memory_format=memory_format))
            loss = functional.cross_entropy(scores, labels, label_smoothing=loops.RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

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

    steps(loops.COMPILE_STEPS)
    count = steps_for(steps(3) / 3)
    return lambda: steps(count) / count


@dataclass(frozen=True)
class RecordedStep:
    """A whole training step on batches of one shape as one CUDA graph."""

    images: Tensor
    labels: Tensor
    graph: torch.cuda.CUDAGraph
    step: Step
    """What was recorded: the graph keeps neither its weights nor the optimiser's state alive."""

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()


def record_step(step: Step, batch: loops.Batch) -> RecordedStep:
    """Record a training step, after some that are not."""
    images, labels = (part.clone() for part in batch)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(images, labels)
    return RecordedStep(images, labels, graph, step)


def torchvision_loop(model: str, data: Garments, device: str, workers: int | None) -> Sample:
    """Seconds per step in the style of torchvision's references/classification/train.py.

    Args:
        model: The network, torchvision's.
        data: The images.
        device: Where it trains.
        workers: Processes that decode, augment and normalise images one by one; None takes our batches.
    """
    net = models.get_model(model, num_classes=data.num_classes).to(device).train()
    criterion = nn.CrossEntropyLoss(label_smoothing=loops.RECIPE.label_smoothing)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, loops.RECIPE.momentum, weight_decay=loops.RECIPE.weight_decay)
    if workers is None:
        batches = loops.forever(data.batches("train", train=True, device=torch.device(device)))
    else:
        files = loops.ImageFiles(data)
        workers = min(workers, os.cpu_count() or 1)
        many: dict[str, object] = {"num_workers": workers, "persistent_workers": True, "pin_memory": device != "cpu"}
        many["multiprocessing_context"] = "fork"  # as in a script, whatever started this process
        batches = loops.forever(DataLoader(files, data.batch_size, shuffle=True, drop_last=True, **many))  # type: ignore[arg-type]

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

    steps(3)
    count = steps_for(steps(3) / 3)
    return lambda: steps(count) / count

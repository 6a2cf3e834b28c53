"""What the benchmark measures in whole processes: seeds in parallel, peak memory, and the time to the first step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

import mnet
from benchmarks import loops, other_loops
from benchmarks.images import garments
from mnet.latency import Sample
from mnet.models.network import MobileNet
from mnet.models.replicas import stack, take_apart
from mnet.tasks.module import make_optimizer
from mnet.training.memory import keep_freed_memory


@dataclass(frozen=True)
class SeedCase:
    """The training that each seed repeats."""

    model: str
    width: float
    seeds: int
    resolution: int
    batch_size: int


@contextmanager
def seed_samples(case: SeedCase, workers: int) -> Iterator[dict[str, Sample]]:
    """Samples of the seconds per step and seed in single-threaded processes that work at the same time: `apart` trains
    seeds one after another in each process, `together` as replicas."""
    with ExitStack() as resources:
        pools = [resources.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(workers)]

        def sample(together: bool) -> float:
            futures = [pool.submit(seconds_per_seed, case, together) for pool in pools]
            return sum(future.result() for future in futures) / workers**2  # mean, divided by the workers at a time

        yield {"apart": lambda: sample(False), "together": lambda: sample(True)}


def seconds_per_seed(case: SeedCase, together: bool) -> float:
    """Seconds of a training step per seed."""
    steps = seed_steps(case, together)
    start = time.perf_counter()
    for step in steps:
        step()
        step()
    return (time.perf_counter() - start) / (2 * case.seeds)


@cache
def seed_steps(case: SeedCase, together: bool) -> tuple[Callable[[], None], ...]:
    """A training step for each seed, or one for all seeds together."""
    torch.set_num_threads(1)
    keep_freed_memory()
    network = mnet.describe(case.model, num_classes=10, width=case.width)
    nets = [mnet.create_model(network) for _ in range(case.seeds)]
    count = case.seeds if together else 1
    steps = []
    for net in [stack(nets)] if together else nets:
        images = torch.randn(case.batch_size, 3 * count, case.resolution, case.resolution)
        labels = torch.randint(10, (count, case.batch_size))
        trained = net.to(memory_format=torch.channels_last).train()
        steps.append(_training_step(trained, images.contiguous(memory_format=torch.channels_last), labels))
    for step in steps:
        step()
    return tuple(steps)


def _training_step(net: MobileNet, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = make_optimizer(net, loops.RECIPE)

    def step() -> None:
        losses = [
            functional.cross_entropy(scores, seed_labels, label_smoothing=loops.RECIPE.label_smoothing)
            for scores, seed_labels in zip(take_apart(net(images), len(labels)), labels, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step


Loop = Literal["lightning", "torchvision"]


def peak_memory(loop: Loop, model: str, data_dir: Path, resolution: int, batch_size: int) -> float:
    """Peak MiB of a new process that trains for some steps."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_train_and_measure, loop, model, data_dir, resolution, batch_size).result()


def _train_and_measure(loop: Loop, model: str, data_dir: Path, resolution: int, batch_size: int) -> float:
    torch.set_num_threads(1)
    data = garments(data_dir, resolution, batch_size)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
        if loop == "lightning":
            keep_freed_memory()  # as run_trial does
            network = loops.network(model, data)
            steps = loops.study_loop(network, data, loops.How(), "cpu", Path(folder), resources)
        else:
            steps = other_loops.torchvision_loop(model, data, "cpu", 0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which reading the data has set
        steps(6)
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


FIRST_STEP = """
import torch
from torch.nn import functional
{build}
images, labels = torch.randn({batch}, 3, {side}, {side}), torch.randint(10, ({batch},))
optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
functional.cross_entropy(net.train()(images), labels).backward()
optimizer.step()
"""


def importing(package: str) -> Sample:
    """Seconds of a new process that imports a package."""
    return _process(f"import {package}")


def first_step(build: str, side: int, batch: int) -> Sample:
    """Seconds of a new process that builds `net` with the code `build` and trains it for one step."""
    return _process(FIRST_STEP.format(build=build, side=side, batch=batch))


def _process(code: str) -> Sample:
    def sample() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - start

    return sample

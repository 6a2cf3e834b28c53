"""What `bench.py` measures of whole processes: seeds side by side, memory at its highest, the way to the first step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import mnet
from benchmarks import loops
from mnet.latency import Sample
from mnet.latency.paired import synchronise
from mnet.models.replicas import stack, take_apart
from mnet.tasks.module import make_optimizer
from mnet.training.arithmetic import compiled
from mnet.training.memory import keep_freed_memory


@contextmanager
def seeds_side_by_side(
    model: str, width: float, seeds: int, resolution: int, batch_size: int, workers: int, device: str
) -> Iterator[dict[str, Sample]]:
    """Seconds a step and seed of processes of one thread that work at the same time: `apart`, one seed after another
    in each; `together`, as replicas. On a GPU all steps are CUDA graphs."""
    with ExitStack() as pools:
        team = [pools.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(workers)]

        def sample(together: bool) -> float:
            case = (model, width, seeds, resolution, batch_size, device, together)
            taken = [one.submit(steps_of_seeds, *case) for one in team]
            return sum(one.result() for one in taken) / workers**2  # a mean, of so many at a time

        yield {"apart": lambda: sample(False), "together": lambda: sample(True)}


def steps_of_seeds(
    model: str, width: float, seeds: int, resolution: int, batch_size: int, device: str, together: bool
) -> float:
    steps = seed_steps(model, width, seeds, resolution, batch_size, device, together)
    synchronise(device)
    start = time.perf_counter()
    for step in steps:
        step()
        step()
    synchronise(device)
    return (time.perf_counter() - start) / (2 * seeds)


@cache
def seed_steps(
    model: str, width: float, seeds: int, resolution: int, batch_size: int, device: str, together: bool
) -> tuple[Callable[[], None], ...]:
    """A training step each of what is trained one after another: as many as seeds, or one of all together."""
    torch.set_num_threads(1)
    keep_freed_memory()
    network = mnet.describe(model, num_classes=10, width=width)
    nets = [mnet.create_model(network) for _ in range(seeds)]
    count = seeds if together else 1
    made = []
    for built in [stack(nets)] if together else nets:
        net = built.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        images = torch.randn(batch_size, 3 * count, resolution, resolution, device=device)
        labels = torch.randint(10, (count, batch_size), device=device)
        made.append(training_step(net, images.contiguous(memory_format=torch.channels_last), labels, device))
    for step in made:
        for _ in range(1 if device == "cpu" else loops.RECORDED):
            step()
    return tuple(made)


def training_step(
    net: mnet.models.network.MobileNet, images: Tensor, labels: Tensor, device: str
) -> Callable[[], None]:
    optimizer = make_optimizer(net, loops.RECIPE)
    answer = compiled(net.forward, loops.compile_on(device))

    def step() -> None:
        said = take_apart(answer(images), len(labels))
        losses = [
            functional.cross_entropy(own, wanted, label_smoothing=loops.RECIPE.label_smoothing)
            for own, wanted in zip(said, labels, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step


def peak_memory(loop: str, model: str, data_dir: Path, resolution: int, batch_size: int) -> float:
    """MiB at most of a process of its own that trains for some steps: `lightning` or `reference`."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(train_and_look, loop, model, data_dir, resolution, batch_size).result()


def train_and_look(loop: str, model: str, data_dir: Path, resolution: int, batch_size: int) -> float:
    torch.set_num_threads(1)
    data = loops.garments(data_dir, resolution, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        if loop == "lightning":
            keep_freed_memory()  # as run_trial does
            sample = loops.lightning_loop(model, data, 6, "cpu", Path(folder))
        else:
            sample = loops.reference_loop(model, data, 6, "cpu")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of reading the data
        sample()
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
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
    """Seconds of a new process that imports it."""
    return process(f"import {package}")


def first_step(build: str, side: int, batch: int) -> Sample:
    """Seconds of a new process that builds `net` and trains it for a step."""
    return process(FIRST_STEP.format(build=build, side=side, batch=batch))


def process(code: str) -> Sample:
    def sample() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - start

    return sample

"""What each switch of a training step brings: the step as a study takes it beside the same with one of them thrown.

Every way has a process of its own, since some switches are a process's (memory, TF32); they work one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from multiprocessing import get_context

import torch
from torch.nn import functional

import mnet
from mnet.data.batches import Batches
from mnet.latency import Sample, timed
from mnet.models import kernels
from mnet.tasks.module import make_optimizer
from mnet.training.arithmetic import Compile, compiled, set_tensor_cores
from mnet.training.memory import keep_freed_memory
from mnet.training.recipes import recipe

RECIPE = recipe("quick")
IMAGES, RESOLUTION, BATCH, STEPS = 12_800, 28, 96, 2


@dataclass(frozen=True)
class Way:
    """How a step is taken; the defaults are a study's."""

    channels_last: bool = True
    fused: bool = True
    """The optimiser's kernels."""
    own_layers: bool = True
    """The kernels of `mnet.models.kernels`, for small maps and ReLU6."""
    memory_kept: bool = True
    on_device: bool = True
    """Images."""
    precision: str = "fp32"
    compile: Compile = "off"


AS_IT_IS = "as a study trains"
THROWN: Mapping[str, Way] = {
    "NCHW": Way(channels_last=False),
    "an optimiser that is not fused": Way(fused=False),
    "in bf16": Way(precision="bf16"),
}
ON_CPU: Mapping[str, Way] = {
    "PyTorch's layers for small maps and ReLU6": Way(own_layers=False),
    "freed memory given back": Way(memory_kept=False),
}
ON_GPU: Mapping[str, Way] = {
    "images on the CPU": Way(on_device=False),
    "in tf32": Way(precision="tf32"),
    "compiled": Way(compile="default"),
    "compiled, as CUDA graphs": Way(compile="reduce-overhead"),
    "compiled, as CUDA graphs, in bf16": Way(compile="reduce-overhead", precision="bf16"),
}


def ways(device: str) -> dict[str, Way]:
    """What is compared on a device, the study's own way first."""
    return {AS_IT_IS: Way(), **THROWN, **(ON_CPU if device == "cpu" else ON_GPU)}


@contextmanager
def side_by_side(device: str) -> Iterator[Callable[[str, float], dict[str, Sample]]]:
    """Of a network and its width: seconds a step of each way."""
    with ExitStack() as pools:
        team = {
            name: (way, pools.enter_context(ProcessPoolExecutor(1, get_context("spawn"))))
            for name, way in ways(device).items()
        }

        def of(model: str, width: float) -> dict[str, Sample]:
            def begin(way: Way, pool: ProcessPoolExecutor) -> Future[float]:
                return pool.submit(seconds_a_step, model, width, device, way)

            for first in [begin(*one) for one in team.values()]:  # all import and compile at the same time
                first.result()
            return {name: lambda one=one: begin(*one).result() for name, one in team.items()}  # type: ignore[misc]

        yield of


def seconds_a_step(model: str, width: float, device: str, way: Way) -> float:
    return timed(step_of(model, width, device, way), calls=STEPS, device=device)()


@cache
def step_of(model: str, width: float, device: str, way: Way) -> Callable[[], None]:
    torch.set_num_threads(1)
    if way.memory_kept:
        keep_freed_memory()
    if not way.own_layers:
        kernels.SMALL_MAP = 0
        kernels.LeanReLU6.apply = functional.relu6
    set_tensor_cores(way.precision == "tf32")
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 1, RESOLUTION, RESOLUTION), dtype=torch.uint8, generator=random)
    labels = torch.randint(10, (IMAGES,), generator=random)
    place = device if way.on_device else "cpu"
    loader = Batches(images.to(place), labels.to(place), batch_size=BATCH, mean=(0.5,), std=(0.25,), train=True)
    batches = chain.from_iterable(repeat(loader))
    order = torch.channels_last if way.channels_last else torch.contiguous_format
    net = mnet.create_model(model, num_classes=10, in_channels=1, width=width).train()
    net = net.to(device, memory_format=order)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, RECIPE)
    for group in optimizer.param_groups:
        group |= {"fused": way.fused, "foreach": not way.fused}
    answer = compiled(net.forward, way.compile)

    def step() -> None:
        seen, wanted = (part.to(device, non_blocking=True) for part in next(batches))
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=way.precision == "bf16"):
            said = answer(seen.contiguous(memory_format=order))
            loss = functional.cross_entropy(said, wanted, label_smoothing=RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):  # compiled, recorded, replayed
        step()
    return step

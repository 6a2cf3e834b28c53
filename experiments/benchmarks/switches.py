"""What each switch of a training step gains: the step as a study trains, against the same with one switch changed.

Every variant has its own process, since some switches apply to a whole process (memory, TF32). They work one at a time.
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
class Switches:
    """How a step trains; the defaults are a study's."""

    channels_last: bool = True
    fused: bool = True
    """Whether the optimiser uses fused kernels."""
    own_layers: bool = True
    """Whether the kernels of `mnet.models.kernels` replace PyTorch's, for small maps and ReLU6."""
    memory_kept: bool = True
    on_device: bool = True
    """Whether the images are on the device."""
    precision: str = "fp32"
    compile: Compile = "off"


DEFAULT = "as a study trains"
CHANGED: Mapping[str, Switches] = {
    "NCHW": Switches(channels_last=False),
    "an optimiser that is not fused": Switches(fused=False),
    "in bf16": Switches(precision="bf16"),
}
CHANGED_ON_CPU: Mapping[str, Switches] = {
    "PyTorch's layers for small maps and ReLU6": Switches(own_layers=False),
    "freed memory given back": Switches(memory_kept=False),
}
CHANGED_ON_GPU: Mapping[str, Switches] = {
    "images on the CPU": Switches(on_device=False),
    "in tf32": Switches(precision="tf32"),
    "compiled": Switches(compile="default"),
    "compiled, as CUDA graphs": Switches(compile="reduce-overhead"),
    "compiled, as CUDA graphs, in bf16": Switches(compile="reduce-overhead", precision="bf16"),
}


@contextmanager
def samples_by_switch(device: str) -> Iterator[Callable[[str, float], dict[str, Sample]]]:
    """A function of a model and its width: seconds per step of each variant, the default first."""
    variants = {DEFAULT: Switches(), **CHANGED, **(CHANGED_ON_CPU if device == "cpu" else CHANGED_ON_GPU)}
    with ExitStack() as resources:
        pools = {name: resources.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for name in variants}

        def samples(model: str, width: float) -> dict[str, Sample]:
            def submit(name: str) -> Future[float]:
                return pools[name].submit(_seconds_per_step, model, width, device, variants[name])

            for future in [submit(name) for name in variants]:  # all import and compile at the same time
                future.result()
            return {name: lambda name=name: submit(name).result() for name in variants}  # type: ignore[misc]

        yield samples


def _seconds_per_step(model: str, width: float, device: str, switches: Switches) -> float:
    return timed(_step(model, width, device, switches), calls=STEPS, device=device)()


@cache
def _step(model: str, width: float, device: str, switches: Switches) -> Callable[[], None]:
    torch.set_num_threads(1)
    if switches.memory_kept:
        keep_freed_memory()
    if not switches.own_layers:
        kernels.SMALL_MAP = 0
        kernels.LeanReLU6.apply = functional.relu6
    set_tensor_cores(switches.precision == "tf32")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 1, RESOLUTION, RESOLUTION), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    place = device if switches.on_device else "cpu"
    loader = Batches(images.to(place), labels.to(place), batch_size=BATCH, mean=(0.5,), std=(0.25,), train=True)
    batches = chain.from_iterable(repeat(loader))
    memory_format = torch.channels_last if switches.channels_last else torch.contiguous_format
    net = mnet.create_model(model, num_classes=10, in_channels=1, width=width).train()
    net = net.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, RECIPE)
    for group in optimizer.param_groups:
        group |= {"fused": switches.fused, "foreach": not switches.fused}
    forward = compiled(net.forward, switches.compile)

    def step() -> None:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=switches.precision == "bf16"):
            scores = forward(images.contiguous(memory_format=memory_format))
            loss = functional.cross_entropy(scores, labels, label_smoothing=RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):  # compiled, recorded, replayed
        step()
    return step

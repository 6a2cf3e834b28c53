"""What each switch of a training step gains: a study's step against the same step with one switch changed.

Every variant has its own process, since keeping freed memory affects a whole process. They work one at a time.
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
    precision: str = "fp32"


DEFAULT = "as a study trains"
CHANGED: Mapping[str, Switches] = {
    "NCHW": Switches(channels_last=False),
    "an optimiser that is not fused": Switches(fused=False),
    "in bf16": Switches(precision="bf16"),
    "PyTorch's layers for small maps and ReLU6": Switches(own_layers=False),
    "freed memory given back": Switches(memory_kept=False),
}


@contextmanager
def samples_by_switch() -> Iterator[Callable[[str, float], dict[str, Sample]]]:
    """Yield a function of model and width that returns samples of the seconds per step of each variant, the default
    first."""
    variants = {DEFAULT: Switches(), **CHANGED}
    with ExitStack() as resources:
        pools = {name: resources.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for name in variants}

        def samples(model: str, width: float) -> dict[str, Sample]:
            def submit(name: str) -> Future[float]:
                return pools[name].submit(_seconds_per_step, model, width, variants[name])

            for future in [submit(name) for name in variants]:  # all import at the same time
                future.result()
            return {name: lambda name=name: submit(name).result() for name in variants}  # type: ignore[misc]

        yield samples


def _seconds_per_step(model: str, width: float, switches: Switches) -> float:
    return timed(_step(model, width, switches), calls=STEPS)()


@cache
def _step(model: str, width: float, switches: Switches) -> Callable[[], None]:
    torch.set_num_threads(1)
    if switches.memory_kept:
        keep_freed_memory()
    if not switches.own_layers:
        kernels.SMALL_MAP = 0
        kernels.LeanReLU6.apply = functional.relu6
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 1, RESOLUTION, RESOLUTION), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    loader = Batches(images, labels, batch_size=BATCH, mean=(0.5,), std=(0.25,), train=True)
    batches = chain.from_iterable(repeat(loader))
    memory_format = torch.channels_last if switches.channels_last else torch.contiguous_format
    net = mnet.create_model(model, num_classes=10, in_channels=1, width=width).train()
    net = net.to(memory_format=memory_format)
    optimizer = make_optimizer(net, RECIPE)
    for group in optimizer.param_groups:
        group |= {"fused": switches.fused, "foreach": not switches.fused}

    def step() -> None:
        images, labels = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=switches.precision == "bf16"):
            scores = net(images.contiguous(memory_format=memory_format))
            loss = functional.cross_entropy(scores, labels, label_smoothing=RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    return step

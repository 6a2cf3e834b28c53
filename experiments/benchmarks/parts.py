"""The parts of the benchmark: what each compares, and with which goal."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

import mnet
from benchmarks import images, loops, other_loops, own_images, processes, switches
from benchmarks.goals import Row, one_sample_row, throughput_row, time_row
from benchmarks.images import garments
from mnet.latency import Sample, paired_ratios, timed
from mnet.studies.engines.local import default_workers
from mnet.studies.study import load_profile, load_study

EXPERIMENTS = Path(__file__).parents[1]
RESOLUTION, BATCH = 32, 128
"""Resolution and batch size of the training loops."""
STEPS = 4
"""Training steps per timed round."""
SAME_NETWORKS = {
    "mobilenet_v1": ("timm:mobilenetv1_100",),
    "mobilenet_v2": ("torchvision:mobilenet_v2", "timm:mobilenetv2_100"),
    "mobilenet_v3_large": ("torchvision:mobilenet_v3_large", "timm:mobilenetv3_large_100"),
    "mobilenet_v3_small": ("torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_100"),
}
SEEDS = 3
SEED_NETWORKS = (("mobilenet_v3_small", 1.0), ("mobilenet_v2", 1.0), ("mobilenet_v3_large", 0.35))
"""Model and width of study networks: from a third of a step spent in calls to almost all of it in arithmetic."""
SWITCH_NETWORKS = (("mobilenet_v3_small", 1.0), ("mobilenet_v2", 0.35))


@dataclass(frozen=True)
class Settings:
    """Settings shared by all parts."""

    data_dir: Path
    budget_s: float
    """Seconds per training comparison."""
    sweep_seeds: int
    images: int
    """Number of files in the study on a user's own images."""


def measure(names: set[str], settings: Settings) -> Iterator[Row]:
    """Yield the rows of the named parts, in the order of `PARTS`.

    Raises:
        DataError: Fashion-MNIST cannot be found or downloaded.
    """
    for name, part in PARTS.items():
        if name in names:
            yield from part(settings)


def _sweep(settings: Settings) -> Iterator[Row]:
    """The activation study on the local engine, from start to table, against its trials in bare loops in as many
    processes. One sample, so no interval."""
    workers = default_workers()
    seeds = settings.sweep_seeds
    profile = load_profile(EXPERIMENTS / "profiles.yaml", "quick", "activation")
    values: dict[str, Sequence[object]] = {
        **profile,
        "data_dir": [settings.data_dir],
        "seed": list(range(seeds)),
        "epochs": [1],
    }
    trials = [trial for _, trial in load_study(EXPERIMENTS / "sweeps/activation.yaml", values).trials]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        bare = sum(pool.map(loops.bare_trials, [trials[i::workers] for i in range(workers)])) / workers
    with tempfile.TemporaryDirectory() as folder:
        options = {"seeds": seeds, "epochs": 1, "report": "false", "data_dir": settings.data_dir, "out": folder}
        command = [sys.executable, str(EXPERIMENTS / "ablate.py"), "activation"]
        start = time.perf_counter()
        subprocess.run(
            [*command, *(f"--{name}={value}" for name, value in options.items())], check=True, stdout=subprocess.DEVNULL
        )
        wall = time.perf_counter() - start
    yield one_sample_row(
        f"sweep of {len(trials)} runs, {workers} side by side",
        ("make ablate-activation, start to table", "the same trials in bare loops"),
        (round(wall, 1), round(bare, 1)),
        "s",
        ratio=wall / bare,
        at_most=1.05,
        note=f"{wall - bare:.0f} s is a fixed cost, large next to one-epoch runs; --sweep_seeds=3 runs the whole study",
    )


def _training(settings: Settings) -> Iterator[Row]:
    """A study's training against the bare loop and the reference loops, in the same rounds."""
    data = garments(settings.data_dir, RESOLUTION, BATCH)
    for model in ("mobilenet_v3_small", "mobilenet_v2"):
        network, how = loops.network(model, data), loops.How()
        with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
            compared = {
                "lightning": loops.study_loop(network, data, how, "cpu", Path(folder), resources),
                "bare": loops.bare_loop(network, data, how, "cpu"),
                "torchvision's": other_loops.torchvision_loop(model, data, "cpu", 0),
                "timm's": other_loops.timm_loop(model, data),
            }
            samples = {name: loops.sample_of(steps, STEPS) for name, steps in compared.items()}
            ratios = paired_ratios(samples, "lightning", budget_s=settings.budget_s, warmup=1)
        for name, goal in (("bare", 0.95), ("torchvision's", 5), ("timm's", 1)):
            quantity, measured = f"throughput, {RESOLUTION} px, batch {BATCH}", f"{model}, Lightning"
            yield throughput_row(quantity, measured, f"{name} loop", ratios[name], at_least=goal)


def _switches(settings: Settings) -> Iterator[Row]:
    """A training step against the same step with one switch changed: a study should use the faster one."""
    with switches.samples_by_switch() as samples:
        for model, width in SWITCH_NETWORKS:
            ratios = paired_ratios(samples(model, width), switches.DEFAULT, budget_s=12, warmup=1)
            for name, ratio in ratios.items():
                quantity = f"throughput, {switches.RESOLUTION} px, batch {switches.BATCH}"
                yield throughput_row(quantity, f"{model} x {width:g}, {switches.DEFAULT}", name, ratio, at_least=1)


def _seeds(settings: Settings) -> Iterator[Row]:
    """Seeds of a cell as replicas of one network, against one after another, in as many processes as a study uses."""
    workers = default_workers()
    for model, width in SEED_NETWORKS:
        case = processes.SeedCase(model, width, SEEDS, 28, 96)
        with processes.seed_samples(case, workers) as samples:
            ratio = paired_ratios(samples, "together", budget_s=12, warmup=1)["apart"]
        quantity = f"throughput, 28 px, batch 96, {workers} processes"
        measured = f"{model} x {width:g}, {SEEDS} seeds as one"
        yield throughput_row(quantity, measured, "one after another", ratio, at_least=1.3)


def _reading(settings: Settings) -> Iterator[Row]:
    """Random resized crops of a user's own images on one thread, from the store on disk against decoding the files."""
    for size, count in (((500, 375), 193), ((2000, 1500), 65)):
        with tempfile.TemporaryDirectory() as folder:
            images.write_photographs(Path(folder), size, count)
            ratio = paired_ratios(images.reading(Path(folder), 224), "store", budget_s=8, warmup=1)["files"]
        quantity = f"reading JPEGs of {size[0]} x {size[1]} for 224 px"
        yield throughput_row(quantity, "dataset=imagefolder, decoded once", "torchvision's loader", ratio, at_least=10)


def _latency(settings: Settings) -> Iterator[Row]:
    pairs = [(model, reference) for model, names in SAME_NETWORKS.items() for reference in names]
    for model, reference in pairs:
        yield _forward(model, reference)
    for model, reference in pairs:
        yield _train_step(model, reference)


def _forward(model: str, reference: str) -> Row:
    """Inference of one image, NCHW on both sides."""
    image = torch.randn(1, 3, 224, 224)

    @torch.inference_mode()
    def infer(net: nn.Module) -> None:
        net(image)

    nets = {name: net.eval() for name, net in _pair(model, reference).items()}
    samples = {name: _fresh(net, infer, 2) for name, net in nets.items()}
    ratio = paired_ratios(samples, "reference", budget_s=6, precision=0.004, min_rounds=30)["mnet"]
    return time_row("forward, 224 px, batch 1", model, reference, ratio, at_most=1.02)


def _train_step(model: str, reference: str) -> Row:
    """Forward and backward, channels_last on both sides."""
    images = torch.randn(16, 3, 96, 96).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (16,))

    def train(net: nn.Module) -> None:
        functional.cross_entropy(net(images), labels).backward()
        net.zero_grad()

    nets = {name: net.to(memory_format=torch.channels_last) for name, net in _pair(model, reference).items()}
    samples = {name: _fresh(net, train, 1) for name, net in nets.items()}
    ratio = paired_ratios(samples, "reference", budget_s=6, precision=0.004, warmup=1)["mnet"]
    return time_row("train step, 96 px, batch 16", model, reference, ratio, at_most=1.02)


def _fresh(net: nn.Module, work: Callable[[nn.Module], object], calls: int) -> Sample:
    """Time `work` on a new copy of `net` for every sample, after one untimed call.

    The memory addresses of its weights affect the time of a net for its whole life; a copy per round makes the interval
    include this effect.
    """

    def sample() -> float:
        copied = copy.deepcopy(net)
        work(copied)
        return timed(lambda: work(copied), calls=calls)()

    return sample


def _pair(model: str, reference: str) -> dict[str, nn.Module]:
    """mnet's implementation of a network and another library's."""
    library, _, name = reference.partition(":")
    other = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    activation = "relu6" if model == "mobilenet_v1" else None  # as in timm's
    return {"mnet": mnet.create_model(model, activation=activation), "reference": other}


def _start(settings: Settings) -> Iterator[Row]:
    """The time to the first step, in new processes."""
    imports = {name: processes.importing(name) for name in ("mnet", "torchvision")}
    ratio = paired_ratios(imports, "torchvision", budget_s=15)["mnet"]
    yield time_row("start-up: import", "mnet", "torchvision", ratio, at_most=1.05)
    builds = {
        "mnet": "import mnet; net = mnet.create_model('mobilenet_v3_small', num_classes=10)",
        "torchvision": "import torchvision; net = torchvision.models.mobilenet_v3_small(num_classes=10)",
    }
    steps = {name: processes.first_step(build, 32, 32) for name, build in builds.items()}
    ratio = paired_ratios(steps, "torchvision", budget_s=15)["mnet"]
    yield time_row("start-up: import to the first step", "mnet", "torchvision", ratio, at_most=1.05)


def _memory(settings: Settings) -> Iterator[Row]:
    """Peak memory of a process that trains. One sample, so no interval."""
    if sys.platform != "linux":  # other systems cannot reset the peak that reading the data sets
        return
    model = "mobilenet_v3_small"
    case = model, settings.data_dir, RESOLUTION, BATCH
    measured, reference = (processes.peak_memory(loop, *case) for loop in ("lightning", "torchvision"))
    names, values = (f"{model}, Lightning", "torchvision's loop"), (round(measured), round(reference))
    yield one_sample_row("memory at its highest", names, values, "MiB", ratio=measured / reference, at_most=1.25)


PARTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "sweep": _sweep,
    "training": _training,
    "switches": _switches,
    "seeds": _seeds,
    "reading": _reading,
    "images": lambda settings: own_images.measure(settings.images),
    "latency": _latency,
    "start": _start,
    "memory": _memory,
}
"""Part -> function that yields its rows, in the order of the table."""

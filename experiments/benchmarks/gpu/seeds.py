"""Seeds of a cell as one network on a GPU: how many, against one after another and against parallel processes.

Every variant trains on batches in GPU memory, in steps that are recorded as one CUDA graph unless its name says
otherwise. A sample is the seconds of a step per seed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import mnet
from benchmarks import loops
from benchmarks.goals import throughput_row
from benchmarks.gpu import steps
from benchmarks.gpu.part import GrowingTable, Settings
from mnet.latency import Sample
from mnet.latency.paired import time_in_rounds
from mnet.latency.timing import synchronise
from mnet.models.replicas import stack, take_apart
from mnet.studies.runs.store import GPU_SEEDS
from mnet.studies.runs.trainer import silence_lightning
from mnet.tasks.classification import ImageClassifier
from mnet.tasks.module import make_optimizer
from mnet.tasks.pack import Pack
from mnet.training.arithmetic import set_tensor_cores

CASES = (("mobilenet_v3_small", 1.0), ("mobilenet_v2", 0.35), ("mobilenet_v3_large", 1.0))
"""Networks of studies, and their widths."""
RESOLUTION, BATCH = 32, 128
ONE = "one seed after another"
TOGETHER, PROCESSES = 4.0, 1.0
"""Goals for throughput: of many seeds as one over one seed after another, and of any pack over processes."""
MANY = 16
"""Number of seeds from which the goal is `TOGETHER`; fewer need only be no slower."""


@dataclass(frozen=True)
class Bare:
    """Seeds as one network in a bare loop."""

    seeds: int
    precision: str = "fp32"
    recorded: bool = True


@dataclass(frozen=True)
class InStudy:
    """Seeds as one network, as a study trains them."""

    seeds: int
    precision: str = "fp32"


@dataclass(frozen=True)
class ParallelProcesses:
    """Processes that share the GPU, a seed each."""

    seeds: int


Variant = Bare | InStudy | ParallelProcesses
VARIANTS: Mapping[str, Variant] = {
    ONE: Bare(1),
    "16 seeds as one": Bare(16),
    "a study's pack of 16": InStudy(16),
    "8 processes": ParallelProcesses(8),
    "8 seeds as one": Bare(8),
    "32 seeds as one": Bare(32),
    "16 seeds as one, bf16": Bare(16, "bf16"),
    "16 seeds as one, tf32": Bare(16, "tf32"),
    "4 seeds as one": Bare(4),
    "2 seeds as one": Bare(2),
    "a study's pack of 8": InStudy(8),
    "a study's pack of 32": InStudy(32),
    "a study's run alone": InStudy(1),
    "one seed after another, bf16": Bare(1, "bf16"),
    "3 processes": ParallelProcesses(3),
    "8 seeds as one, bf16": Bare(8, "bf16"),
    "one seed after another, not recorded": Bare(1, recorded=False),
    "8 seeds as one, not recorded": Bare(8, recorded=False),
}
"""The most informative first, since time may run out."""
REHEARSED: Mapping[str, Variant] = {
    ONE: Bare(1),
    "2 seeds as one": Bare(2),
    "a study's pack of 2": InStudy(2),
    "2 processes": ParallelProcesses(2),
    "2 seeds as one, bf16": Bare(2, "bf16"),
}


def run(settings: Settings) -> None:
    """Write `seeds.csv`: per network and variant, its throughput over one seed after another and over processes.

    Raises:
        DataError: Fashion-MNIST cannot be found.
    """
    cases = CASES[:1] if settings.rehearse else CASES
    variants = REHEARSED if settings.rehearse else VARIANTS
    most = max((variant.seeds for variant in variants.values() if isinstance(variant, ParallelProcesses)), default=0)
    # Forked before this process uses the GPU, since CUDA does not survive a fork; they end with this process.
    pools = [ProcessPoolExecutor(1, get_context("fork")) for _ in range(most)]
    for pool in pools:
        pool.submit(os.getpid).result()
    silence_lightning()
    table = GrowingTable(settings.out / GPU_SEEDS, ("what", "ours", "theirs"), settings.device)
    data = steps.garments(settings, RESOLUTION, 8 if settings.rehearse else BATCH)
    torch.set_num_threads(1)  # as in a study
    for model, width in cases:
        if settings.left_s > steps.CASE_SECONDS / 3 or settings.rehearse:
            budget_s = min(steps.CASE_SECONDS, settings.left_s)
            _compare(table, settings, model, width, data, pools, variants, budget_s)


def _compare(
    table: GrowingTable,
    settings: Settings,
    model: str,
    width: float,
    data: steps.Garments,
    pools: Sequence[ProcessPoolExecutor],
    variants: Mapping[str, Variant],
    budget_s: float,
) -> None:
    """Time the variants that the table lacks, in the same rounds."""
    started = time.monotonic()
    case = f"{model} x {width:g}, {RESOLUTION} px, batch {data.batch_size}"
    missing = {name: variant for name, variant in variants.items() if (case, name, ONE) not in table}
    if missing.keys() <= {ONE}:
        return
    network = settings.network(model, data.num_classes, data.in_channels, width)
    samples: dict[str, Sample] = {}
    peaks: dict[str, float] = {}
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        for name, variant in {ONE: variants[ONE], **missing}.items():
            if time.monotonic() - started > steps.BUILDING * budget_s and not settings.rehearse:
                print(f"  {case}: no time left for {name} and the rest", flush=True)
                break
            build: Callable[[], Sample]
            if isinstance(variant, Bare):
                build = partial(bare_pack, network, variant, data.batch_size, settings)
            elif isinstance(variant, InStudy):
                build = partial(study_pack, network, variant, data, settings, folder / name, resources)
            else:
                build = partial(parallel_processes, network, variant, data.batch_size, settings, pools)
            steps.build_loop(samples, peaks, name, build)
            if isinstance(variant, ParallelProcesses):
                peaks.pop(name, None)  # they use memory in other processes
        if ONE not in samples:
            return
        budget = max(settings.rounds_s, budget_s - (time.monotonic() - started))
        times = time_in_rounds(samples, ONE, budget_s=budget, half_width=0.02, warmup=1, skip_failures=True)
    processes = [name for name in times.times if isinstance(variants[name], ParallelProcesses)]
    best = min(processes, key=times.ms, default=None)
    for name in times.times:
        for baseline in (ONE, best):
            if baseline is None or name in (ONE, baseline) or (baseline != ONE and name in processes):
                continue
            goal = goal_of(variants[name], over_processes=baseline != ONE)
            row = throughput_row(case, name, baseline, times.ratio(baseline, name), at_least=goal)
            rate = {"images_per_second": round(data.batch_size / times.ms(name) * 1000), "peak_gb": peaks.get(name, "")}
            table.add({**vars(row), **rate})
            print(f"  {case}: {name} / {baseline}: {row.ratio:.3f} {row.interval} {row.verdict}", flush=True)


def goal_of(variant: Variant, *, over_processes: bool) -> float | None:
    """The goal of a variant; None for processes and for a single seed."""
    if isinstance(variant, ParallelProcesses) or variant.seeds == 1:
        return None
    return PROCESSES if over_processes else TOGETHER if variant.seeds >= MANY else 1.0


def bare_pack(network: mnet.Network, variant: Bare, batch_size: int, settings: Settings) -> Sample:
    """Seconds per step and seed of a bare loop."""
    sample = steps.sampled(_bare_steps(network, variant, batch_size, settings.device), settings)
    return lambda: sample() / variant.seeds


def _bare_steps(network: mnet.Network, variant: Bare, batch_size: int, device: str) -> loops.Steps:
    """A bare loop over one batch."""
    update, images, labels = _update(network, variant, batch_size, device)

    def take(count: int) -> float:
        set_tensor_cores(variant.precision == "tf32")
        synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            update(images, labels)
        synchronise(device)
        return time.perf_counter() - start

    take(3)
    return take


def _update(network: mnet.Network, variant: Bare, batch_size: int, device: str) -> tuple[loops.Step, Tensor, Tensor]:
    """A training step of all seeds, and a batch for it: images (N, K * C, H, W), labels (K, N)."""
    nets = [mnet.create_model(network) for _ in range(variant.seeds)]
    net = (stack(nets) if variant.seeds > 1 else nets[0]).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.randn(batch_size, network.in_channels * variant.seeds, RESOLUTION, RESOLUTION, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(network.num_classes, (variant.seeds, batch_size), device=device)
    optimizer = make_optimizer(net, loops.RECIPE)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=variant.precision == "bf16", cache_enabled=False):
            losses = [
                functional.cross_entropy(scores, classes, label_smoothing=loops.RECIPE.label_smoothing)
                for scores, classes in zip(take_apart(net(images), variant.seeds), labels, strict=True)
            ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    set_tensor_cores(variant.precision == "tf32")
    recorded = variant.recorded and device != "cpu"
    return loops.record_step(step, (images, labels)) if recorded else step, images, labels


def study_pack(
    network: mnet.Network,
    variant: InStudy,
    data: steps.Garments,
    settings: Settings,
    folder: Path,
    resources: ExitStack,
) -> Sample:
    """Seconds per step and seed of a pack as a study trains it, or of a run alone if there is one seed."""
    modules = [ImageClassifier(network, loops.RECIPE) for _ in range(variant.seeds)]
    datas = [data.for_run(data.batch_size, seed) for seed in range(variant.seeds)]
    alone = variant.seeds == 1
    module = modules[0] if alone else Pack(modules)
    how, seeds = loops.How(variant.precision, compile="auto"), range(variant.seeds)
    loop = loops.train_in_steps(module, datas[0] if alone else datas, seeds, how, settings.device, folder, resources)
    sample = steps.sampled(loop, settings)
    return lambda: sample() / variant.seeds


def parallel_processes(
    network: mnet.Network,
    variant: ParallelProcesses,
    batch_size: int,
    settings: Settings,
    pools: Sequence[ProcessPoolExecutor],
) -> Sample:
    """Seconds per step and seed of parallel processes that train one seed each."""
    chosen = pools[: variant.seeds]

    def all_at_once(count: int) -> float:
        futures = [pool.submit(seconds_in_process, network, batch_size, settings.device, count) for pool in chosen]
        start = time.perf_counter()
        for future in futures:
            future.result()
        return time.perf_counter() - start

    all_at_once(3)
    count = 4 * steps.steps_for(all_at_once(8) / 8, settings)  # enough steps to make handing out the work negligible
    return lambda: all_at_once(count) / (count * variant.seeds)


def seconds_in_process(network: mnet.Network, batch_size: int, device: str, count: int) -> float:
    """Seconds of `count` steps; runs in a worker process."""
    torch.set_num_threads(1)
    return _steps_in_process(network, Bare(1), batch_size, device)(count)


_steps_in_process = cache(_bare_steps)
"""Built by the first call in a process."""

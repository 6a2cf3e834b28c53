"""The speed of a training step on a GPU: as a study trains, with every switch, in bare loops and in torchvision's.

All variants of a network and resolution are timed in the same rounds. A study's variant is one long training in a
thread that runs only while it is sampled, so that a sample contains steps and no start-up.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import loops, other_loops
from benchmarks.goals import throughput_row
from benchmarks.gpu.part import GrowingTable, Settings
from benchmarks.images import IMAGES, ColourGarments
from benchmarks.loops import How
from mnet.data.batches import Shard
from mnet.data.decoded import Images
from mnet.latency import Sample
from mnet.latency.paired import time_in_rounds
from mnet.studies.runs.store import GPU_STEPS
from mnet.studies.runs.trainer import silence_lightning

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
SMALL, LARGE_IMAGES = 64, 2560
"""Resolution up to which all images of the benchmark are used, and the number used above it."""
COMPILED = (("mobilenet_v3_small", 32), ("mobilenet_v3_large", 32))
"""Cases that are also timed with torch.compile, which takes a minute to compile each."""
COMPILE_SECONDS = 75.0


@dataclass(frozen=True)
class Reference:
    """torchvision's loop."""

    workers: int | None
    """Processes that decode, augment and normalise images one by one; None uses our batches."""


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
"""The most informative first, since time may run out."""
BARE_COMPILED: Mapping[str, How] = {
    "bare loop, torch.compile": How(compile="default"),
    "bare loop, torch.compile with CUDA graphs": How(compile="reduce-overhead"),
}
REHEARSED = (
    *("bare loop, CUDA graphs, NCHW", "torchvision's loop", "torchvision's loop, images on the GPU"),
    *("a study in bf16", "a study, images copied", next(iter(BARE_COMPILED))),
)
CASE_SECONDS = 75.0
"""Time for all loops of a case; with less, the later ones are left out. Cases that are not reached are measured by the
next call."""
BUILDING = 0.6
"""Share of a case's time after which no further loop is built."""
GOALS = {"bare loop, CUDA graphs": 0.9, "bare loop, torch.compile with CUDA graphs": 0.9}
"""Throughput ratio that a study should reach; 1 against everything else in the same precision."""


def goal_of(variant: str) -> float | None:
    """The goal against a variant; None for another precision, which gives other results."""
    how = {**VARIANTS, **BARE_COMPILED}[variant]
    return GOALS.get(variant, 1.0) if isinstance(how, Reference) or how.precision == "fp32" else None


def run(settings: Settings) -> None:
    """Write `steps.csv`: a row per case and variant, the study's throughput over the variant's.

    Raises:
        DataError: Fashion-MNIST cannot be found.
    """
    table = GrowingTable(settings.out / GPU_STEPS, KEYS, settings.device)
    if settings.rehearse:
        variants = {**VARIANTS, **dict.fromkeys(BARE_COMPILED, How())}  # a compiler takes longer than a rehearsal
        _compare(table, settings, *CASES[0], settings.left_s, variants)
        return
    for model, resolution in CASES:
        if settings.left_s > CASE_SECONDS / 3:
            _compare(table, settings, model, resolution, min(CASE_SECONDS, settings.left_s), VARIANTS)
    for model, resolution in COMPILED:
        if settings.left_s > COMPILE_SECONDS:
            _compare(table, settings, model, resolution, 10, {STUDY: VARIANTS[STUDY], **BARE_COMPILED})


def _compare(
    table: GrowingTable,
    settings: Settings,
    model: str,
    resolution: int,
    budget_s: float,
    variants: Mapping[str, How | Reference],
) -> None:
    """Time the variants that the table lacks, in the same rounds as the study's own step."""
    started = time.monotonic()
    batch = 8 if settings.rehearse else BATCH
    case = f"training step, {resolution} px, batch {batch}"
    measured = f"{model}, {STUDY}"
    others = [name for name in variants if name != STUDY and (case, measured, name) not in table]
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
                print(f"  {model}, {case}: no time left for {name} and the rest", flush=True)
                break
            how = variants[name]
            if isinstance(how, Reference):
                workers = 1 if settings.rehearse and how.workers else how.workers
                build = partial(other_loops.torchvision_loop, model, data[True], settings.device, workers)
            elif "study" in name:
                path = folder / name.replace(" ", "-")
                build = partial(loops.study_loop, network, data[how.on_device], how, settings.device, path, resources)
            else:
                build = partial(loops.bare_loop, network, data[True], how, settings.device)
            build_loop(samples, peaks, name, lambda build=build: sampled(build(), settings))  # type: ignore[misc]
        if STUDY not in samples:
            return
        budget = max(settings.rounds_s, budget_s - (time.monotonic() - started))
        times = time_in_rounds(samples, STUDY, budget_s=budget, half_width=0.02, warmup=2, skip_failures=True)
    for name in times.times:
        if name == STUDY:
            continue
        row = throughput_row(case, measured, name, times.ratio(name, STUDY), at_least=goal_of(name))
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
    """Add a loop and its peak memory in GiB; a loop that fails is reported and left out."""
    before = _reset_peak()
    try:
        sample = build()
        sample()
    except Exception as error:
        print(f"  {name} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return
    samples[name] = sample
    if torch.cuda.is_available():
        peaks[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)


def _reset_peak() -> int:
    """Reset the peak of allocated memory; return the bytes allocated now."""
    if not torch.cuda.is_available():
        return 0
    free_memory()  # what an earlier loop left behind must not be freed while this one is built
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def sampled(steps: loops.Steps, settings: Settings) -> Sample:
    """Seconds per step, in samples of about `settings.sample_s`."""
    return loops.sample_of(steps, steps_for(steps(3) / 3, settings))


def steps_for(seconds_per_step: float, settings: Settings) -> int:
    """Number of steps in a sample."""
    return max(1, min(50, round(settings.sample_s / seconds_per_step)))


def free_memory() -> None:
    """Free GPU memory that nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()


class Garments(ColourGarments):
    """A subset of Fashion-MNIST in RGB: above `SMALL` pixels only as many images as fit in memory."""

    def read(self) -> tuple[Images, Images]:
        size = LARGE_IMAGES if self.resolution > SMALL else IMAGES
        train, test = super().read()
        count = size + self.settings.val_size
        return Images(train.images[:count], train.labels[:count]), Images(test.images[:2], test.labels[:2])


class GarmentsOnHost(Garments):
    """The same in CPU memory: every batch is augmented there and copied to the GPU."""

    def place(self, device: torch.device, shard: Shard) -> None:
        super().place(torch.device("cpu"), shard)


class Noise(GarmentsOnHost):
    """A few images of noise for a rehearsal, which need no file."""

    def prepare_data(self) -> None:
        """Nothing to prepare."""

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

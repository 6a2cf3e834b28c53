"""Speed against what people use now, as ratios: `python experiments/bench.py` (10 minutes on 2 cores).

Each row compares two things round by round in random order. Training: our classifier through Lightning against a bare
loop over the same net and batches, and against loops in the style of torchvision's reference script and of timm's.
Seeds: as replicas of one network, against one after another. Reading: photographs. Latency: our nets against
torchvision's and timm's, forward and training step. A goal that is missed is printed red, with the reason.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import lightning
import pandas as pd
import timm
import torch
import torchvision
from benchmarks import loops, processes, switches
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

import mnet
from mnet.errors import ConfigError, DataError
from mnet.files import write_csv
from mnet.latency import Ratio, Sample, paired_ratios, timed
from mnet.provenance import provenance
from mnet.studies.engines.local import default_workers
from mnet.studies.runs.store import BENCH
from mnet.studies.study import load_profile, load_study
from mnet.training.memory import keep_freed_memory

HERE = Path(__file__).parent
RESOLUTION, BATCH = 32, 128
"""Of the training loops: pixels, images."""
STEPS, STEPS_ON_GPU = 4, 50
"""That are timed in a round."""
NEXT_TO = {
    "mobilenet_v1": ("timm:mobilenetv1_100",),
    "mobilenet_v2": ("torchvision:mobilenet_v2", "timm:mobilenetv2_100"),
    "mobilenet_v3_large": ("torchvision:mobilenet_v3_large", "timm:mobilenetv3_large_100"),
    "mobilenet_v3_small": ("torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_100"),
}
PARTS = ("sweep", "training", "switches", "seeds", "reading", "latency", "start", "memory")
SEEDS = 3
SEEDS_OF = (
    ("mobilenet_v3_small", 1.0),
    ("mobilenet_v2", 1.0),
    ("mobilenet_v3_large", 0.35),
)
"""Networks of studies, from calls that take a third of a step to arithmetic that takes almost all."""
SEEDS_ON_GPU = 8
SWITCHES_OF = (("mobilenet_v3_small", 1.0), ("mobilenet_v2", 0.35))
SAME = "what it can save is reading, image by image; the rest of its step is the same network in the same kernels"
ANOTHER = "another precision is another result: PRECISION=bf16 or tf32, and make ablate-precision says what it costs"
REASONS = {
    "processes": "calls are a tenth to a third of a step, and strided products cost some of what joining them saves",
    "torchvision's loop": SAME,
    "timm's loop": SAME,
    "500 x 375": "both decode the whole of so small a photograph, which takes most of the time",
    "compiled": "a study compiles where it is told to: COMPILE=reduce-overhead",
    "in bf16": ANOTHER,
    "in tf32": ANOTHER,
    "import": "Lightning is not imported; what is beyond torch is the family, its tables and its latency laboratory",
}
"""Part of a row -> why its goal is missed where it is."""
Verdict = Literal["met", "NOT MET", "unclear"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    theirs: str
    unit: str
    ours_value: float
    theirs_value: float
    ratio: float
    low: float
    high: float
    rounds: int
    goal: str
    verdict: Verdict
    note: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 measured (also where a goal is missed), 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where Fashion-MNIST is, or is put")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for bench.csv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=30, help="budget of a training comparison")
    parser.add_argument("--only", choices=PARTS, help="a part of the table")
    parser.add_argument("--sweep_seeds", type=int, default=1, help="of the activation study that is swept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for theirs too: of a process, not of a loop
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    start, rows, console = time.perf_counter(), [], Console()
    try:
        for row in measure(options):
            rows.append(row)
            console.print(f"  {row.what}: {row.ratio:.3f} {bounds(row)} {row.verdict}", highlight=False, markup=False)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = {
        "threads": options.threads,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        **provenance(torch.device(options.device)),
    }
    path = options.out / BENCH
    write_csv(path, pd.DataFrame([{**vars(row), **machine} for row in rows]))
    show(rows, console if console.is_terminal else Console(width=150))
    spent = time.perf_counter() - start
    named = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision", "timm", "lightning", "mnet"))
    console.print(f"{machine['device']}, {options.threads} thread(s); {named}; {spent:.0f} s", highlight=False)
    if os.cpu_count() and os.getloadavg()[0] > options.threads + 0.5:
        console.print("Other programs were running: intervals are wider, milliseconds longer.", highlight=False)
    console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Row after row of the table."""
    wanted = PARTS if options.only is None else (options.only,)
    data = loops.garments(options.data_dir, RESOLUTION, BATCH) if {"training", "memory"} & set(wanted) else None
    if "sweep" in wanted:
        yield sweep(options.data_dir, options.sweep_seeds)
    if "training" in wanted and data is not None:
        for model in ("mobilenet_v3_small", "mobilenet_v2"):
            yield from training(model, data, options.device, options.seconds)
    if "switches" in wanted:
        yield from thrown(options.device)
    if "seeds" in wanted:
        for model, width in SEEDS_OF:
            yield from seeds(model, width, options.device)
    if "reading" in wanted:
        for size, count in (((500, 375), 96), ((2000, 1500), 32)):
            yield reading(size, count)
    if "latency" in wanted:
        for model, others in NEXT_TO.items():
            for other in others:
                yield forward(model, other, options.device)
        for model, others in NEXT_TO.items():
            for other in others:
                yield step(model, other, options.device)
    if "start" in wanted:
        yield from starting()
    if "memory" in wanted and data is not None and sys.platform == "linux":  # elsewhere a peak is not told apart
        yield memory(options.data_dir)


def sweep(data_dir: Path, seeds: int) -> Row:
    """The activation study through the local engine, start to table, beside the sum of its trials in bare loops that
    run side by side as the engine's do. One sample: no interval."""
    workers = default_workers()
    path = HERE / "sweeps/activation.yaml"
    profile = load_profile(HERE / "profiles.yaml", "quick", "activation")
    study = load_study(path, {**profile, "data_dir": [data_dir], "seed": list(range(seeds)), "epochs": [1]})
    trials = [trial for _, trial in study.trials]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        bare = sum(pool.map(loops.bare_trials, [trials[i::workers] for i in range(workers)])) / workers
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"--seeds={seeds}", "--epochs=1", "--report=false", f"--data_dir={data_dir}", f"--out={folder}"]
        command = [sys.executable, str(HERE / "ablate.py"), "activation", *settings]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
    return one_sample(
        f"sweep of {len(trials)} runs, {workers} side by side",
        ("make ablate-activation, start to table", "the same trials in bare loops"),
        (round(wall, 1), round(bare, 1)),
        "s",
        ratio=wall / bare,
        at_most=1.05,
        note=f"{wall - bare:.0f} s are paid once, of runs of one epoch; --sweep_seeds=3 is the whole study",
    )


def training(model: str, data: loops.ColourGarments, device: str, budget_s: float) -> Iterator[Row]:
    """Lightning beside the bare loop and the reference loop, in the same rounds; the first two compiled on a GPU."""
    compile = loops.compile_on(device)
    steps = STEPS if device == "cpu" else STEPS_ON_GPU
    with tempfile.TemporaryDirectory() as folder:
        samples = {
            "lightning": loops.lightning_loop(model, data, steps, device, Path(folder), compile),
            "bare": loops.bare_loop(model, data, steps, device, compile),
            "torchvision's": loops.reference_loop(model, data, steps, device),
            "timm's": loops.timm_loop(model, data, steps, device),
        }
        found = paired_ratios(samples, "lightning", budget_s=budget_s, warmup=1)
    for name, goal in (("bare", 0.95 if device == "cpu" else 0.9), ("torchvision's", 5), ("timm's", 1)):
        what, ours = f"throughput, {RESOLUTION} px, batch {BATCH}", f"{model}, Lightning"
        yield row(what, ours, f"{name} loop", found[name], at_least=goal, inverse=True)


def thrown(device: str) -> Iterator[Row]:
    """A training step beside the same with one switch thrown: what is faster should be what a study does."""
    with switches.side_by_side(device) as samples:
        for model, width in SWITCHES_OF:
            found = paired_ratios(samples(model, width), switches.AS_IT_IS, budget_s=12, warmup=1)
            for name, one in found.items():
                what = f"throughput, {switches.RESOLUTION} px, batch {switches.BATCH}"
                yield row(what, f"{model} x {width:g}, {switches.AS_IT_IS}", name, one, at_least=1, inverse=True)


def seeds(model: str, width: float, device: str) -> Iterator[Row]:
    """Seeds of a cell as replicas of one network beside one after another, in as many processes as a study has; on a
    GPU in one process, and beside as many processes as share it else."""
    workers = default_workers()
    if device == "cpu":
        count, batch, what = SEEDS, 96, f"throughput, 28 px, batch 96, {workers} processes"
        with processes.seeds_side_by_side(model, width, count, 28, batch, workers, device) as samples:
            found = paired_ratios(samples, "together", budget_s=12, warmup=1)
        others = {"apart": ("one after another", 1.3)}
    else:
        count, batch, what = SEEDS_ON_GPU, 128, "throughput, 28 px, batch 128"
        one = processes.seeds_side_by_side(model, width, count, 28, batch, 1, device)
        several = processes.seeds_side_by_side(model, width, count, 28, batch, workers, device)
        with one as samples, several as more:
            found = paired_ratios({**samples, "processes": more["apart"]}, "together", budget_s=12, warmup=1)
        others = {"apart": ("one after another", 4.0), "processes": (f"{workers} at a time", 1.0)}
    for name, (theirs, goal) in others.items():
        ours = f"{model} x {width:g}, {count} seeds as one"
        yield row(what, ours, theirs, found[name], at_least=goal, inverse=True)


def reading(size: tuple[int, int], count: int) -> Row:
    """Photographs decoded, cropped and normalised on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        loops.write_photographs(Path(folder), size, count)
        found = paired_ratios(loops.reading(Path(folder), 224), "ours", budget_s=8, warmup=1)["theirs"]
    what = f"reading JPEGs of {size[0]} x {size[1]} for 224 px"
    return row(what, "dataset=photographs", "torchvision's reference", found, at_least=1, inverse=True)


def starting() -> Iterator[Row]:
    """The way to the first step, in new processes."""
    theirs = "import torchvision; net = torchvision.models.mobilenet_v3_small(num_classes=10)"
    ours = "import mnet; net = mnet.create_model('mobilenet_v3_small', num_classes=10)"
    imports = {name: processes.importing(name) for name in ("mnet", "torchvision")}
    found = paired_ratios(imports, "torchvision", budget_s=15)["mnet"]
    yield row("start-up: import", "mnet", "torchvision", found, at_most=1.05)
    steps = {name: processes.first_step(build, 32, 32) for name, build in (("ours", ours), ("theirs", theirs))}
    found = paired_ratios(steps, "theirs", budget_s=15)["ours"]
    yield row("start-up: import to the first step", "mnet", "torchvision", found, at_most=1.05)


def memory(data_dir: Path) -> Row:
    """At its highest, of a process that trains. One sample: no interval."""
    model = "mobilenet_v3_small"
    ours, theirs = (
        processes.peak_memory(loop, model, data_dir, RESOLUTION, BATCH) for loop in ("lightning", "reference")
    )
    names = f"{model}, Lightning", "torchvision's loop"
    values = round(ours), round(theirs)
    return one_sample("memory at its highest", names, values, "MiB", ratio=ours / theirs, at_most=1.25)


def one_sample(
    what: str,
    names: tuple[str, str],
    values: tuple[float, float],
    unit: str,
    *,
    ratio: float,
    at_most: float,
    note: str = "",
) -> Row:
    """A ratio without an interval; names and values are ours and theirs."""
    return Row(
        what=what,
        ours=names[0],
        theirs=names[1],
        unit=unit,
        ours_value=values[0],
        theirs_value=values[1],
        ratio=round(ratio, 4),
        low=math.nan,
        high=math.nan,
        rounds=1,
        goal=f"<= {at_most:g}",
        verdict="met" if ratio <= at_most else "NOT MET",
        note=note,
    )


def forward(model: str, other: str, device: str) -> Row:
    """Inference of one image, NCHW on both sides."""
    image = torch.randn(1, 3, 224, 224, device=device)

    @torch.inference_mode()
    def infer(net: nn.Module) -> None:
        net(image)

    nets = {name: net.eval() for name, net in pair(model, other, device).items()}
    samples = {name: fresh(net, infer, 2, device) for name, net in nets.items()}
    found = paired_ratios(samples, "theirs", budget_s=6, precision=0.004, min_rounds=30)["ours"]
    return row("forward, 224 px, batch 1", model, other, found, at_most=1.02)


def step(model: str, other: str, device: str) -> Row:
    """Forward and backward, channels_last on both sides."""
    images = torch.randn(16, 3, 96, 96, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (16,), device=device)

    def learn(net: nn.Module) -> None:
        functional.cross_entropy(net(images), labels).backward()
        net.zero_grad()

    nets = {name: net.to(memory_format=torch.channels_last) for name, net in pair(model, other, device).items()}
    samples = {name: fresh(net, learn, 1, device) for name, net in nets.items()}
    found = paired_ratios(samples, "theirs", budget_s=6, precision=0.004, warmup=1)["ours"]
    return row("train step, 96 px, batch 16", model, other, found, at_most=1.02)


def fresh(net: nn.Module, work: Callable[[nn.Module], object], calls: int, device: str) -> Sample:
    """`work` on a new copy of `net` each time, after one call not timed.

    Where weights happen to lie in memory lasts as long as the net; drawn anew each round, it is in the interval.
    """

    def sample() -> float:
        copied = copy.deepcopy(net)
        work(copied)
        return timed(lambda: work(copied), calls=calls, device=device)()

    return sample


def pair(model: str, other: str, device: str) -> dict[str, nn.Module]:
    """Ours and theirs, the same network."""
    library, _, name = other.partition(":")
    theirs = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    activation = "relu6" if model == "mobilenet_v1" else None  # as in timm's
    return {"ours": mnet.create_model(model, activation=activation).to(device), "theirs": theirs.to(device)}


def row(
    what: str,
    ours: str,
    theirs: str,
    found: Ratio,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    inverse: bool = False,
) -> Row:
    """A ratio beside its goal. `inverse`: ours is the baseline, so the ratio of times is one of throughputs."""
    mine, other = (found.baseline_ms, found.ms) if inverse else (found.ms, found.baseline_ms)
    goal = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    return Row(
        what=what,
        ours=ours,
        theirs=theirs,
        unit="ms",
        ours_value=round(mine, 2),
        theirs_value=round(other, 2),
        ratio=round(found.value, 4),
        low=round(found.low, 4),
        high=round(found.high, 4),
        rounds=found.rounds,
        goal=goal,
        verdict=(verdict := judge(found, at_most, at_least)),
        note="" if verdict == "met" else next((why for part, why in REASONS.items() if part in f"{what} {theirs}"), ""),
    )


def judge(found: Ratio, at_most: float | None, at_least: float | None) -> Verdict:
    """Met or not where the whole interval says so, else unclear."""
    if at_least is not None:
        low, high, bound = -found.high, -found.low, -at_least
    else:
        low, high, bound = found.low, found.high, at_most or 0.0
    if high <= bound:
        return "met"
    return "NOT MET" if low > bound else "unclear"


def bounds(row: Row) -> str:
    return "one sample" if math.isnan(row.low) else f"[{row.low:.3f}, {row.high:.3f}]"


def show(rows: Sequence[Row], console: Console) -> None:
    """The table."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("what", "ours", "theirs"):
        table.add_column(column)
    for column in ("ours", "theirs", "ratio", "95% interval", "goal", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        times = f"{row.ours_value:.1f} {row.unit}", f"{row.theirs_value:.1f} {row.unit}"
        values = *times, f"{row.ratio:.3f}", bounds(row).replace("[", r"\["), row.goal
        colour = {"met": "green", "NOT MET": "bold red", "unclear": "yellow"}[row.verdict]
        table.add_row(row.what, row.ours, row.theirs, *values, f"[{colour}]{row.verdict}[/]")
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[red]{row.ours} / {row.theirs}, {row.what}: {row.note}[/]", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

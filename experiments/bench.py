"""Speed on the CPU against common libraries, as ratios: `python experiments/bench.py` (18 minutes on 2 cores); on a
GPU, experiments/gpu.py.

Each row compares two things round by round, in random order. Training: our classifier through Lightning against a bare
loop over the same net and batches, and against loops in the style of torchvision's reference script and of timm's.
Seeds: as replicas of one network, against one after another. Reading: random crops of your own images, against decoding
them. Images: a study on your own images, from start to table. Latency: our nets against torchvision's and timm's,
forward and training step. A missed goal is printed in red, with the reason.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import pandas as pd
import timm
import torch
import torchvision
from benchmarks.goals import Row
from benchmarks.parts import PARTS, Settings, measure
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.terminal import make_console
from rich import box
from rich.console import Console
from rich.table import Table

from mnet.errors import unknown
from mnet.files import write_csv
from mnet.provenance import provenance
from mnet.studies.runs.store import BENCH
from mnet.training.memory import keep_freed_memory

COLOURS = {"met": "green", "NOT MET": "bold red", "unclear": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    data_dir: Path = Path("data")
    """Folder of Fashion-MNIST."""
    out: Path = Path("results")
    """Folder for bench.csv."""
    threads: int = 1
    """CPU threads."""
    seconds: float = 30.0
    """Budget of a training comparison."""
    only: str | None = None
    """Measure only this part of the table."""
    sweep_seeds: int = 1
    """Seeds of the activation study in the part sweep."""
    images: int = 8000
    """Number of files in the study on a user's own images."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "seconds", "sweep_seeds", "images")
        if self.only is not None and self.only not in PARTS:
            raise unknown("part", self.only, PARTS)


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured (even if a goal is missed), 2 bad input."""
    options = read_arguments(arguments).options
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # applies to the other libraries too: it is a setting of the process
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    settings = Settings(options.data_dir, options.seconds, options.sweep_seeds, options.images)
    start, rows, console = time.perf_counter(), [], make_console()
    for row in measure(set(PARTS) if options.only is None else {options.only}, settings):
        rows.append(row)
        console.print(f"  {row.what}: {row.ratio:.3f} {row.interval} {row.verdict}", highlight=False, markup=False)
    environment = {
        "threads": options.threads,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        **provenance(torch.device("cpu")),
    }
    path = options.out / BENCH
    write_csv(path, pd.DataFrame([{**vars(row), **environment} for row in rows]))
    _show(rows, console)
    seconds = time.perf_counter() - start
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("torch", "torchvision", "timm", "lightning", "mnet")
    )
    device = f"{environment['device']}, {options.threads} thread(s)"
    console.print(f"{device}; {versions}; {seconds:.0f} s", highlight=False)
    if os.cpu_count() and os.getloadavg()[0] > options.threads + 0.5:
        console.print("Other programs were running: intervals are wider and times longer.", highlight=False)
    console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def _show(rows: Sequence[Row], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("what", "ours", "theirs"):
        table.add_column(column)
    for column in ("ours", "theirs", "ratio", "95% interval", "goal", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        values = f"{row.ours_value:.1f} {row.unit}", f"{row.theirs_value:.1f} {row.unit}"
        ratio = f"{row.ratio:.3f}", row.interval.replace("[", r"\["), row.goal
        colour = COLOURS[row.verdict]
        table.add_row(row.what, row.ours, row.theirs, *values, *ratio, f"[{colour}]{row.verdict}[/]")
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[red]{row.ours} / {row.theirs}, {row.what}: {row.note}[/]", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

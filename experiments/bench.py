"""Speed against common libraries, as ratios: `python experiments/bench.py` (10 minutes on 2 cores).

Each row compares two things round by round, in random order. Training: our classifier through Lightning against a bare
loop over the same net and batches, and against loops in the style of torchvision's reference script and of timm's.
Seeds: as replicas of one network, against one after another. Reading: photographs. Latency: our nets against
torchvision's and timm's, forward and training step. A missed goal is printed in red, with the reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning
import pandas as pd
import timm
import torch
import torchvision
from benchmarks.goals import Row
from benchmarks.parts import PARTS, Settings, measure
from rich import box
from rich.console import Console
from rich.table import Table

from mnet.errors import ConfigError, DataError
from mnet.files import write_csv
from mnet.provenance import provenance
from mnet.studies.runs.store import BENCH
from mnet.training.memory import keep_freed_memory

COLOURS = {"met": "green", "NOT MET": "bold red", "unclear": "yellow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 measured (even if a goal is missed), 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for bench.csv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=30, help="budget of a training comparison")
    parser.add_argument("--only", choices=tuple(PARTS), help="measure one part of the table")
    parser.add_argument("--sweep_seeds", type=int, default=1, help="seeds of the activation study in the part sweep")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for the other libraries too: it is a setting of the process
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    settings = Settings(options.data_dir, options.device, options.seconds, options.sweep_seeds)
    start, rows, console = time.perf_counter(), [], Console()
    try:
        for row in measure(set(PARTS) if options.only is None else {options.only}, settings):
            rows.append(row)
            console.print(f"  {row.what}: {row.ratio:.3f} {row.interval} {row.verdict}", highlight=False, markup=False)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    environment = {
        "threads": options.threads,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        **provenance(torch.device(options.device)),
    }
    path = options.out / BENCH
    write_csv(path, pd.DataFrame([{**vars(row), **environment} for row in rows]))
    _show(rows, console if console.is_terminal else Console(width=150))
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

"""What the terminal shows while a study runs, and the table at its end."""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import cast

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnet.studies.local import Event
from mnet.studies.run import Progress
from mnet.studies.sweep import Study


class Display:
    """Runs done, what runs now, accuracy and time left: live on a terminal, one line an event elsewhere."""

    def __init__(self, study: Study, *, jobs: int, done: int) -> None:
        self.study, self.jobs, self.done, self.failed = study, jobs, done, 0
        self.cells = {trial.run_id: (cell.name, trial.seed) for cell, trial in reversed(study.trials)}
        self.running: dict[str, Progress] = {}
        self.top1: dict[str, list[float]] = {}
        self.started, self.before = time.monotonic(), done
        self.console = Console()
        self.live = Live(console=self.console, get_renderable=self.draw, refresh_per_second=4)

    def __enter__(self) -> Display:
        first = f"{self.study.name}: {len(self.study.cells)} cells, {self.jobs} runs"
        self.console.print(f"{first}, {self.done} finished before" if self.done else first)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def tell(self, event: Event) -> None:
        """Take in what a worker said."""
        run_id = event.job.trial.run_id
        if event.kind == "started":
            self.running[run_id] = Progress(0, 1, 0.0)
        elif event.kind == "progress":
            self.running[run_id] = cast(Progress, event.content)
        else:
            self.running.pop(run_id, None)
            self.finish(event)

    def finish(self, event: Event) -> None:
        name, seed = self.cells[event.job.trial.run_id]
        if event.kind == "failed":
            self.failed += 1
            self.console.print(f"{name} seed {seed} failed: {event.content}", markup=False)
            return
        self.done += 1
        result = cast(dict[str, float], event.content)
        self.top1.setdefault(name, []).append(result["top1"])
        if not self.console.is_terminal:
            line = f"[{self.done}/{self.jobs}] {name} seed {seed}: top-1 {result['top1']:.2f}%"
            self.console.print(f"{line}, {result['train_seconds']:.0f} s; {self.left()}", markup=False, highlight=False)

    def left(self) -> str:
        """Time to the end, from the work done in this session."""
        worked = self.done - self.before + sum(progress.step / progress.steps for progress in self.running.values())
        if worked <= 0:
            return "ETA unknown"
        remaining = (self.jobs - self.failed - self.before - worked) * (time.monotonic() - self.started) / worked
        return f"ETA {timedelta(seconds=round(max(0.0, remaining)))}"

    def draw(self) -> Group:
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_row(f"{self.done}/{self.jobs} runs", ProgressBar(self.jobs, self.done, width=30), self.left())
        for run_id, progress in self.running.items():
            name, seed = self.cells[run_id]
            now = f"training top-1 {progress.top1:.1f}%" if progress.step else "starting"
            table.add_row(f"  {name}, seed {seed}", ProgressBar(progress.steps, progress.step, width=30), now)
        means = "   ".join(
            f"{name} {statistics.mean(values):.2f}% (n={len(values)})" for name, values in self.top1.items()
        )
        return Group(table, Text(f"test top-1 so far: {means}" if means else ""))


def print_summary(study: Study, runs: pd.DataFrame, summary: pd.DataFrame, folder: Path) -> None:
    """The closing table, and where the files are."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    if summary.empty:
        console.print(f"no finished run of the baseline ({study.baseline}): nothing to compare")
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{study.name}: {runs['model'].iloc[0]} on {runs['dataset'].iloc[0]}")
    table.add_column("cell", no_wrap=True)
    for column in ("n", "top-1 %", "sd", "delta", "95% interval", "params", "MAdds"):
        table.add_column(column, justify="right", no_wrap=True)
    networks = runs.groupby("cell")["run_id"].agg(set)
    for row, (_, cell) in enumerate(summary.iterrows()):
        delta = ("baseline", "") if row == 0 else (f"{cell['delta']:+.2f}", bounds(cell["low"], cell["high"]))
        if row and networks[cell["cell"]] == networks[study.baseline]:
            delta = ("0", "same network")
        sizes = f"{cell['params'] / 1e6:.3f} M", f"{cell['madds'] / 1e6:.2f} M"
        table.add_row(
            cell["cell"], str(cell["n"]), f"{cell['top1_mean']:.2f}", f"{cell['top1_sd']:.2f}", *delta, *sizes
        )
    console.print(table)
    console.print(
        f"Test top-1; deltas to {study.baseline} in points, paired by seed, with 95% t intervals.", highlight=False
    )
    for name in ("runs.csv", "summary.csv", f"{study.name}.png"):
        console.print(f"  {folder / name}", highlight=False, soft_wrap=True)


def bounds(low: float, high: float) -> str:
    return "needs 2 seeds" if pd.isna(low) else f"[{low:+.2f}, {high:+.2f}]"

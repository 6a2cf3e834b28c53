"""What the terminal shows while studies run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.terminal import print_line
from mnet.errors import counted
from mnet.studies.engines.estimate import trial_seconds
from mnet.studies.engines.events import Event, Failed, Finished, Locked, Progressed, Retrying, Stalled, Started
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.study import Study
from mnet.tasks import Metric


class Display:
    """Progress of the runs, accuracies and time left: live on a terminal, elsewhere one line per event."""

    def __init__(self, studies: Sequence[Study], jobs: Sequence[Job], todo: Sequence[Job]) -> None:
        """
        Args:
            studies: The studies.
            jobs: Their runs.
            todo: Those that are not finished.
        """
        self.studies, self.jobs, self.done = studies, len(jobs), len(jobs) - len(todo)
        self.names = _run_names(studies)
        self.estimates = {job.run_id: trial_seconds(job.trial) for job in todo}
        """Run id -> estimated seconds of work; a failed run is removed."""
        self.finished_work = 0.0
        """Estimated seconds of the runs finished since the start."""
        self.running: dict[str, Progress] = {}
        self.locked: set[str] = set()
        self.metrics: dict[str, list[float]] = {}
        """Cell -> the test metric of its finished runs."""
        self.started = time.monotonic()
        self.console = Console()
        self.live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> Display:
        title = self.studies[0].name if len(self.studies) == 1 else counted(len(self.studies), "study", "studies")
        cells = sum(len(study.cells) for study in self.studies)
        line = f"{title}: {counted(cells, 'cell')}, {counted(self.jobs, 'run')}"
        print_line(self.console, f"{line}, {self.done} already finished" if self.done else line)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def on_event(self, event: Event) -> None:
        """Show an event of the engine."""
        run_id = event.job.run_id
        name = self.names[run_id]
        if not isinstance(event, Started | Progressed | Stalled):
            self.running.pop(run_id, None)
        match event:
            case Started():
                self.running.setdefault(run_id, Progress(0, 1, 0.0))
            case Progressed():
                self.running[run_id] = event.progress
            case Stalled():
                step = self.running.get(run_id, Progress(0, 1, 0.0)).step
                self._print(f"{name}: no progress for {event.seconds:.0f} s, last at step {step}")
            case Locked():
                if run_id not in self.locked:
                    self._print(f"{name}: another process is training it; waiting for its result")
                self.locked.add(run_id)
            case Retrying():
                self._print(f"{name}: {event.reason}; retrying")
            case Failed():
                self.estimates.pop(run_id, None)
                self._print(f"{name} failed: {event.reason}")
            case Finished():
                self.finished_work += self.estimates.get(run_id, 0.0)
                self._finish(name, event.job.trial.task.headline, cast(dict[str, float], event.result))

    def time_left(self) -> str:
        """Time to the end, from the speed of the work done since the start."""
        shares = {run_id: progress.step / progress.steps for run_id, progress in self.running.items()}
        work = self.finished_work + sum(self.estimates.get(run_id, 0.0) * share for run_id, share in shares.items())
        if work <= 0:
            return "ETA unknown"
        remaining = (sum(self.estimates.values()) - work) * (time.monotonic() - self.started) / work
        return f"ETA {timedelta(seconds=round(max(0.0, remaining)))}"

    def _print(self, line: str) -> None:
        print_line(self.console, line)

    def _finish(self, name: str, metric: Metric, result: dict[str, float]) -> None:
        self.done += 1
        self.metrics.setdefault(name.rpartition(" seed ")[0], []).append(result[metric.name])
        if not self.console.is_terminal:
            line = f"[{self.done}/{self.jobs}] {name}: {metric.label} {result[metric.name]:.2f}%"
            self._print(f"{line}, {result['train_seconds']:.0f} s; {self.time_left()}")

    def _draw(self) -> Group:
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_row(f"{self.done}/{self.jobs} runs", ProgressBar(self.jobs, self.done, width=30), self.time_left())
        for run_id, progress in self.running.items():
            state = f"training {progress.metric} {progress.value:.3g}" if progress.step else "starting"
            table.add_row(f"  {self.names[run_id]}", ProgressBar(progress.steps, progress.step, width=30), state)
        means = "   ".join(
            f"{name} {statistics.mean(values):.2f}% (n={len(values)})"
            for name, values in list(self.metrics.items())[-6:]
        )
        return Group(table, Text(f"test so far: {means}" if means else ""))


def _run_names(studies: Sequence[Study]) -> dict[str, str]:
    """Run id -> the name shown for it: its first study, cell and seed."""
    names: dict[str, str] = {}
    for study in studies:
        for cell, trial in study.trials:
            prefix = f"{study.name}: " if len(studies) > 1 else ""
            names.setdefault(trial.run_id, f"{prefix}{cell.name} seed {trial.seed}")
    return names

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

from mnet.studies.engines import Event
from mnet.studies.engines.estimate import seconds
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress
from mnet.studies.study import Study
from mnet.tasks import Metric


class Display:
    """Runs done, what runs now, accuracy and time left: live on a terminal, one line an event elsewhere."""

    def __init__(self, studies: Sequence[Study], jobs: Sequence[Job], todo: Sequence[Job]) -> None:
        self.studies, self.jobs, self.done = studies, len(jobs), len(jobs) - len(todo)
        self.names = run_names(studies)
        self.work = {job.run_id: seconds(job.trial) for job in todo}
        """What each run that has not failed was estimated to take."""
        self.worked = 0.0
        """Of that, on runs that are finished."""
        self.running: dict[str, Progress] = {}
        self.locked: set[str] = set()
        self.found: dict[str, list[float]] = {}
        self.started = time.monotonic()
        self.console = Console()
        self.live = Live(console=self.console, get_renderable=self.draw, refresh_per_second=4)

    def __enter__(self) -> Display:
        title = self.studies[0].name if len(self.studies) == 1 else f"{len(self.studies)} studies"
        cells = sum(len(study.cells) for study in self.studies)
        first = f"{title}: {cells} cells, {self.jobs} runs"
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
        """Take in what the engine said."""
        run_id = event.job.run_id
        name = self.names[run_id]
        if event.kind == "started":
            self.running.setdefault(run_id, Progress(0, 1, 0.0))
        elif event.kind == "progress":
            self.running[run_id] = cast(Progress, event.content)
        elif event.kind == "stalled":
            step = self.running.get(run_id, Progress(0, 1, 0.0)).step
            self.say(f"{name}: no sign of life for {cast(float, event.content):.0f} s, last at step {step}")
        else:
            self.running.pop(run_id, None)
        if event.kind == "locked":
            if run_id not in self.locked:
                self.say(f"{name}: another process trains it; its result is waited for")
            self.locked.add(run_id)
        elif event.kind == "retrying":
            self.say(f"{name}: {event.content}; tried once more, alone")
        elif event.kind == "failed":
            self.work.pop(run_id, None)
            self.say(f"{name} failed: {event.content}")
        elif event.kind == "finished":
            self.worked += self.work.get(run_id, 0.0)
            self.finish(name, event.job.trial.task.headline, cast(dict[str, float], event.content))

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    def finish(self, name: str, metric: Metric, result: dict[str, float]) -> None:
        self.done += 1
        self.found.setdefault(name.rpartition(" seed ")[0], []).append(result[metric.name])
        if not self.console.is_terminal:
            line = f"[{self.done}/{self.jobs}] {name}: {metric.label} {result[metric.name]:.2f}%"
            self.say(f"{line}, {result['train_seconds']:.0f} s; {self.left()}")

    def left(self) -> str:
        """Time to the end, from the work done in this session."""
        now = {run_id: progress.step / progress.steps for run_id, progress in self.running.items()}
        worked = self.worked + sum(self.work.get(run_id, 0.0) * share for run_id, share in now.items())
        if worked <= 0:
            return "ETA unknown"
        remaining = (sum(self.work.values()) - worked) * (time.monotonic() - self.started) / worked
        return f"ETA {timedelta(seconds=round(max(0.0, remaining)))}"

    def draw(self) -> Group:
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_row(f"{self.done}/{self.jobs} runs", ProgressBar(self.jobs, self.done, width=30), self.left())
        for run_id, progress in self.running.items():
            now = f"training {progress.metric} {progress.value:.3g}" if progress.step else "starting"
            table.add_row(f"  {self.names[run_id]}", ProgressBar(progress.steps, progress.step, width=30), now)
        means = "   ".join(
            f"{name} {statistics.mean(values):.2f}% (n={len(values)})" for name, values in list(self.found.items())[-6:]
        )
        return Group(table, Text(f"on test so far: {means}" if means else ""))


def run_names(studies: Sequence[Study]) -> dict[str, str]:
    """Run id -> what the run is called: its first study, cell and seed."""
    names: dict[str, str] = {}
    for study in studies:
        for cell, trial in study.trials:
            prefix = f"{study.name}: " if len(studies) > 1 else ""
            names.setdefault(trial.run_id, f"{prefix}{cell.name} seed {trial.seed}")
    return names

"""What the terminal shows while studies run, and how it lays out a table."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from common.progress import Display
from common.terminal import print_rows

from mnet.studies import Cell, Study, Trial
from mnet.studies.engines.estimate import trial_seconds
from mnet.studies.engines.events import Failed, Finished, Progressed
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress

PRECISIONS = ("fp32", "bf16")


def test_the_time_left_weighs_each_run_by_its_estimate(monkeypatch):
    """A run in bf16 takes three times as long on a CPU: once the fp32 run is done, so is a quarter of the work."""
    trials = [Trial(precision=precision) for precision in PRECISIONS]
    cells = tuple(Cell(trial.precision, (trial,), {"precision": trial.precision}) for trial in trials)
    jobs = [Job(trial, Path("results"), "study") for trial in trials]
    fast, slow = map(trial_seconds, trials)
    assert slow > 2.5 * fast
    display = Display([Study("study", "", ("precision",), cells)], jobs, jobs)
    start = display.started
    monkeypatch.setattr(time, "monotonic", lambda: start + 100)
    assert display.time_left() == "ETA unknown"

    def left() -> float:
        hours, minutes, rest = map(int, re.fullmatch(r"ETA (\d+):(\d+):(\d+)", display.time_left()).groups())
        return timedelta(hours=hours, minutes=minutes, seconds=rest).total_seconds()

    display.on_event(Progressed(jobs[0], Progress(1, 2, 0.0)))
    assert left() == pytest.approx(100 * (fast / 2 + slow) / (fast / 2), abs=1)
    display.on_event(Finished(jobs[0], {"top1": 80.0, "train_seconds": 1.0}))
    assert left() == pytest.approx(100 * slow / fast, abs=1)
    display.on_event(Failed(jobs[1], "the loss is nan"))
    assert left() == 0


def test_numeric_columns_are_set_to_the_right_and_brackets_are_no_markup(capsys):
    print_rows("title", {"name": False, "value": True}, [("[red]a", "1"), ("b", "-22.5")], footer=("sum", "-21.5"))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].strip() == "title"
    ends = {line.split()[0]: len(line) for line in lines[1:] if line.split()[0] in ("name", "[red]a", "b", "sum")}
    assert len(ends) == 4
    assert len(set(ends.values())) == 1

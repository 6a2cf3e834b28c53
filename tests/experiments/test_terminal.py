"""What the terminal says while a study runs."""

import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
from common.progress import Display

from mnet.studies import Cell, Study, Trial
from mnet.studies.engines import Event
from mnet.studies.engines.estimate import seconds
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import Progress

PRECISIONS = ("fp32", "bf16")


def test_the_time_left_is_of_what_each_run_takes(monkeypatch):
    """A run in bf16 takes three times as long here: with that of fp32 done, little of the work is."""
    trials = [Trial(precision=precision) for precision in PRECISIONS]
    cells = tuple(Cell(one.precision, (one,), {"precision": one.precision}) for one in trials)
    jobs = [Job(one, Path("results"), "study") for one in trials]
    fast, slow = map(seconds, trials)
    assert slow > 2.5 * fast
    display = Display([Study("study", "", ("precision",), cells)], jobs, jobs)
    start = display.started
    monkeypatch.setattr(time, "monotonic", lambda: start + 100)
    assert display.left() == "ETA unknown"

    def left() -> float:
        hours, minutes, rest = map(int, re.fullmatch(r"ETA (\d+):(\d+):(\d+)", display.left()).groups())
        return timedelta(hours=hours, minutes=minutes, seconds=rest).total_seconds()

    display.tell(Event("progress", jobs[0], Progress(1, 2, 0.0)))
    assert left() == pytest.approx(100 * (fast / 2 + slow) / (fast / 2), abs=1)
    display.tell(Event("finished", jobs[0], {"top1": 80.0, "train_seconds": 1.0}))
    assert left() == pytest.approx(100 * slow / fast, abs=1)
    display.tell(Event("failed", jobs[1], "the loss is nan"))
    assert left() == 0

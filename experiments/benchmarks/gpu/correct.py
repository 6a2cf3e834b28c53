"""The tests that need a GPU, one row each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.part import GrowingTable, Settings
from mnet.studies.runs.store import GPU_CORRECT

ROOT = Path(__file__).parents[3]
TESTS = "tests/gpu"
REHEARSED = "order or recorded and quick and fp32 or waits and (quick-auto or v3-off)"
"""Tests of a rehearsal: both recipes, and each way of computing steps, once."""


def run(settings: Settings) -> None:
    """Run the tests of `tests/gpu` and write `correct.csv`: test, outcome, seconds, and the message of a failure."""
    table = GrowingTable(settings.out / GPU_CORRECT, ("test",), settings.device)
    arguments = [str(ROOT / TESTS), "-q", "-p", "no:xdist", "-o", "addopts=", f"--rootdir={ROOT}", "--no-header"]
    if settings.rehearse:
        arguments += ["--rehearse", "-k", REHEARSED]
    pytest.main(arguments, plugins=[Reporter(table, settings)])


class Reporter:
    """Writes the outcome of every test as soon as it is known."""

    def __init__(self, table: GrowingTable, settings: Settings) -> None:
        self.table, self.settings = table, settings

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and not (report.when == "setup" and not report.passed):
            return
        message = " ".join(report.longreprtext.split())[-400:] if report.failed else ""
        name = report.nodeid.rpartition("::")[2]
        self.table.add({"test": name, "outcome": report.outcome, "seconds": round(report.duration, 2), "why": message})

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.settings.left_s <= 0 and not self.settings.rehearse:
            pytest.skip("its share of the time has run out")

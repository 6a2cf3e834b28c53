"""The speed of this machine, for the time that runs will take."""

from __future__ import annotations

from pathlib import Path

from common.sweeps import HERE
from mnet.studies.engines.estimate import Rates, fit_rates, timed_runs
from mnet.studies.runs.store import PUBLISHED, RUNS

PUBLISHED_RUNS = HERE.parent / "results" / PUBLISHED / "activation" / RUNS


def measured_rates(root: Path) -> Rates:
    """From the runs of a results folder; where there is none, from the published ones."""
    return fit_rates(timed_runs(root, PUBLISHED_RUNS))

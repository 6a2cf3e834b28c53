"""The speed of this machine, to estimate how long runs will take."""

from __future__ import annotations

from pathlib import Path

from common.sweeps import PUBLISHED_RESULTS
from mnet.studies.engines.estimate import Rates, fit_rates, timed_runs
from mnet.studies.runs.store import RUNS

PUBLISHED_RUNS = PUBLISHED_RESULTS / "activation" / RUNS


def measured_rates(root: Path) -> Rates:
    """Rates fitted to the runs of a results folder; to published ones if it has none."""
    return fit_rates(timed_runs(root, PUBLISHED_RUNS))

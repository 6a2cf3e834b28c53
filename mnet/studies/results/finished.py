"""A finished run, from a results folder or from W&B, as a row of `runs.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from mnet.studies.options import PARAMETERS, cell_name, trial_from
from mnet.studies.results.tables import run_row
from mnet.studies.trial import Trial

RESOLVED = ("epochs", "batch_size", "lr")
"""Settings that tables and W&B hold as trained, not as requested."""


class FinishedRun(NamedTuple):
    study: str
    trial: Trial
    result: Mapping[str, object]
    """Values as in result.json. They override those that `run_row` derives from the trial."""
    file: str = ""
    """Path of result.json; empty for a run on W&B."""
    trainer: str = ""
    """Trainer arguments that change what the run computes, see `other_training`; empty without any."""


def finished_row(run: FinishedRun, cells: Mapping[tuple[str, str], str]) -> dict[str, object]:
    """The row of `runs.csv` for a run.

    Args:
        run: The run.
        cells: (study, run id) -> name of the cell. Other runs are named by model and changed toggles.
    """
    toggles = {name: value for name, value in run.trial.toggles().items() if value is not None}
    row = run_row(run.study, cell_name({"model": run.trial.model, **toggles}), run.trial, run.result)
    images = {"data_dir": str(run.trial.data_dir)} if run.trial.images is not None else {}
    return {**row, "cell": cells.get((run.study, str(row["run_id"])), row["cell"]), **images}


def described_trial(settings: Mapping[str, object]) -> Trial:
    """The trial that a row of `runs.csv` or a run on W&B describes, ignoring `RESOLVED`.

    Those hold the values as trained: 0 epochs for int8, a tenth of the requested learning rate for int8-qat. Taken as
    requests, they would be refused or divided again.
    """
    options = {name: settings[name] for name in PARAMETERS if name in settings and name not in RESOLVED}
    return trial_from({name: value for name, value in options.items() if not pd.isna(value)})  # type: ignore[call-overload]

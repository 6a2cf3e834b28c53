"""List the studies: their cells, what is finished, and how long the rest would take on this machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import Arguments, Parser, check_positive
from common.program import program
from common.rates import measured_rates
from common.sweeps import CLAIMS_FILE, SWEEPS, load_sweep
from common.terminal import format_duration, print_rows

from mnet.studies.claims.claims import load_claims
from mnet.studies.engines.estimate import Rates, trial_seconds
from mnet.studies.engines.local import default_workers
from mnet.studies.runs.store import is_in_place, known_result, read_failure, run_folder, runs_with_result
from mnet.studies.study import Study, list_studies
from mnet.studies.trial import Trial

COLUMNS = {
    "study": False,
    "cells": True,
    "runs": True,
    "failed": True,
    "time left": True,
    "claims": True,
    "state": False,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str = "results"
    """Folder for results."""
    workers: int | None = None
    """Trials that run in parallel; default: one per core."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "workers")


@dataclass(frozen=True)
class Row:
    """A study and its progress."""

    study: Study
    trials: dict[str, Trial]
    """Run id -> trial; a run that cells share appears once."""
    done: frozenset[str]
    failed: frozenset[str]
    left_s: float
    """Time left, in seconds of one worker."""

    @property
    def state(self) -> str:
        if len(self.done) == len(self.trials):
            return "finished"
        return "failed" if self.failed else "partly" if self.done else "new"


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = read_arguments(arguments).options
    root = Path(options.out)
    finished = {folder.name for folder in runs_with_result(root) if known_result(folder) and is_in_place(folder)}
    rates = measured_rates(root)
    studies = [load_sweep(name, options.profile, options.seeds) for name in list_studies(SWEEPS)]
    rows = [measure_progress(study, root, finished, rates) for study in studies]
    claims = Counter(claim.study for claim in load_claims(CLAIMS_FILE))
    show(rows, claims, options, options.workers or default_workers(), rates)
    return 0


def measure_progress(study: Study, root: Path, finished: set[str], rates: Rates) -> Row:
    """The progress of a study.

    Args:
        study: The study.
        root: The results folder.
        finished: Ids of the runs that any study has finished.
        rates: Speeds of this machine.
    """
    trials = {trial.run_id: trial for _, trial in study.trials}
    done = finished & trials.keys()
    todo = trials.keys() - done
    failed = {run_id for run_id in todo if read_failure(run_folder(root, study.name, run_id)) is not None}
    left_s = sum(trial_seconds(trials[run_id], rates) for run_id in todo)
    return Row(study, trials, frozenset(done), frozenset(failed), left_s)


def show(rows: Sequence[Row], claims: Counter[str], options: Options, workers: int, rates: Rates) -> None:
    """Print a row per study, and a total that counts a shared run once."""
    trials = {run_id: trial for row in rows for run_id, trial in row.trials.items()}
    done = {run_id for row in rows for run_id in row.done}
    left_s = sum(trial_seconds(trial, rates) for run_id, trial in trials.items() if run_id not in done)
    total = (
        "total",
        str(sum(len(row.study.cells) for row in rows)),
        f"{len(done)}/{len(trials)}",
        str(len({run_id for row in rows for run_id in row.failed})),
        format_duration(left_s / workers),
        str(sum(claims[row.study.name] for row in rows)),
        "",
    )
    cells = [
        (
            row.study.name,
            str(len(row.study.cells)),
            f"{len(row.done)}/{len(row.trials)}",
            str(len(row.failed)),
            format_duration(row.left_s / workers),
            str(claims[row.study.name]),
            row.state,
        )
        for row in rows
    ]
    print_rows(f"studies, profile {options.profile}", COLUMNS, cells, footer=total)
    print(f"Results in {options.out}; time left with {workers} trials in parallel. A run shared by studies counts")
    print("in each of them, but only once in the total. make ablate-<study> runs one study, make ablate-all the rest.")


if __name__ == "__main__":
    sys.exit(main())

"""List the studies: their cells, what is finished, and what the rest would cost on this machine."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import HERE, SWEEPS, overrides, read_own_options, sweep_file
from rich import box
from rich.console import Console
from rich.table import Table

from mnet.errors import ConfigError
from mnet.studies.claims.claims import load_claims
from mnet.studies.engines.estimate import Rates, fit_rates, seconds, timed_runs
from mnet.studies.engines.local import default_workers
from mnet.studies.runs.store import PUBLISHED, RESULT, RUNS, read_failure, read_result, run_folder
from mnet.studies.study import Study, list_studies, load_study
from mnet.studies.trial import Trial

PUBLISHED_RUNS = HERE.parent / "results" / PUBLISHED / "activation" / RUNS


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str = "results"
    """Folder for results."""
    workers: int | None = None
    """Trials side by side; default: one a core."""


@dataclass(frozen=True)
class Row:
    """A study and how far it is."""

    study: Study
    trials: dict[str, Trial]
    """Of every run; what its cells share is there once."""
    done: frozenset[str]
    failed: frozenset[str]
    left: float
    """Seconds of one worker."""

    @property
    def state(self) -> str:
        if len(self.done) == len(self.trials):
            return "finished"
        return "failed" if self.failed else "partly" if self.done else "new"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    try:
        options = read_arguments(sys.argv[1:] if arguments is None else arguments)
        root = Path(options.out)
        finished = {path.parent.name for path in root.glob(f"*/runs/*/{RESULT}") if read_result(path.parent)}
        rates = fit_rates(timed_runs(root, PUBLISHED_RUNS))
        rows = [measure(load(name, options), root, finished, rates) for name in list_studies(SWEEPS)]
        claims = Counter(claim.study for claim in load_claims(HERE / "claims.yaml"))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(rows, claims, options, options.workers or default_workers(), rates)
    return 0


def read_arguments(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    _, options = read_own_options(parser, Options, arguments, positive=("seeds", "workers"))
    return options


def load(name: str, options: Options) -> Study:
    return load_study(sweep_file(name), overrides(name, options.profile, options.seeds, {}))


def measure(study: Study, root: Path, finished: set[str], rates: Rates) -> Row:
    trials = {trial.run_id: trial for _, trial in study.trials}
    done = finished & trials.keys()
    todo = trials.keys() - done
    failed = {run_id for run_id in todo if read_failure(run_folder(root, study.name, run_id)) is not None}
    return Row(
        study, trials, frozenset(done), frozenset(failed), sum(seconds(trials[run_id], rates) for run_id in todo)
    )


def show(rows: Sequence[Row], claims: Counter[str], options: Options, workers: int, rates: Rates) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(box=box.SIMPLE_HEAD, title=f"studies, profile {options.profile}", show_footer=True)
    table.add_column("study", "total", no_wrap=True)
    every = {run_id: trial for row in rows for run_id, trial in row.trials.items()}
    done = {run_id for row in rows for run_id in row.done}
    failed = {run_id for row in rows for run_id in row.failed}
    left = sum(seconds(trial, rates) for run_id, trial in every.items() if run_id not in done)
    totals = {
        "cells": str(sum(len(row.study.cells) for row in rows)),
        "runs": f"{len(done)}/{len(every)}",
        "failed": str(len(failed)),
        "time left": duration(left / workers),
        "claims": str(sum(claims[row.study.name] for row in rows)),
    }
    for name, total in totals.items():
        table.add_column(name, total, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in rows:
        table.add_row(
            row.study.name,
            str(len(row.study.cells)),
            f"{len(row.done)}/{len(row.trials)}",
            str(len(row.failed)),
            duration(row.left / workers),
            str(claims[row.study.name]),
            row.state,
        )
    console.print(table)
    notes = (
        f"Results in {options.out}; time left with {workers} trials side by side. Runs that studies share count in",
        "each of them and once in the total. make ablate-<study> runs one, make ablate-all the rest.",
    )
    console.print("\n".join(notes), highlight=False)


def duration(seconds: float) -> str:
    """`0`, `6 min` or `31 h`, rounded."""
    minutes = seconds / 60
    if minutes < 1:
        return "0" if not minutes else "< 1 min"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


if __name__ == "__main__":
    sys.exit(main())

"""The table that a study ends with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.terminal import print_table
from mnet.studies.results.tables import Tables
from mnet.studies.results.views import effects_table, summary_table
from mnet.studies.runs.store import EFFECTS, PREDICTIONS, RUNS, SUMMARY
from mnet.studies.study import Study


def print_summary(study: Study, tables: Tables, folder: Path, margin: float) -> None:
    """Print a study's cells, the notes below them, and where the files are."""
    summary = tables.summary
    if summary.empty:
        print(f"{study.name}: no finished run")
        return
    _print_cells(study, tables)
    if not tables.effects.empty:
        _print_effects(tables.effects)
    against = f"deltas to {study.baseline} in points, paired by seed, with 95% t intervals"
    print(f"Test {study.task.headline.label}; {against}; verdicts after Holm; flat: within {margin:g} points.")
    undecided = summary[summary["verdict"] == "inconclusive"]
    if not undecided.empty:
        needed = ", ".join(f"{cell['cell']} {cell['seeds_needed']:.0f}" for _, cell in undecided.iterrows())
        print(f"Seeds for an interval of +-{margin:g} points, estimated from the spread so far: {needed}.")
    for _, cell in summary[summary["failed"] > 0].iterrows():
        print(f"{cell['cell']}: {cell['failed']} failed: {cell['reason']}")
    figures = f"{study.name}.png", f"{study.name}-effects.png", PREDICTIONS
    for path in (folder / name for name in (RUNS, SUMMARY, EFFECTS, *figures)):
        if path.exists():
            print(f"  {path}")


def _print_cells(study: Study, tables: Tables) -> None:
    trials = [trial for _, trial in study.trials]
    models = ", ".join(dict.fromkeys(trial.model for trial in trials))
    datasets = ", ".join(dict.fromkeys(trial.dataset for trial in trials))
    metric = f"{study.task.headline.label} %"
    titles = ("cell", "n", metric, "sd", "difference", "95% interval", "verdict", "params", "MAdds")
    print_table(summary_table(tables.summary, tables.runs).select(*titles), f"{study.name}: {models} on {datasets}")


def _print_effects(effects: pd.DataFrame) -> None:
    titles = ("variant", "compared", "n", "difference", "95% interval", "verdict")
    table = effects_table(effects).select(*titles, "beyond the first", "its 95% interval")
    first = effects["variant"].iloc[0]
    print_table(table, f"within each variant; beyond the first: the difference to {first}")

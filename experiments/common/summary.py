"""The table that is printed at the end of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from common.terminal import print_table
from mnet.studies.plan import looks_of
from mnet.studies.results.sentences import sentence
from mnet.studies.results.table_view import rows_of
from mnet.studies.results.tables import MACRO, Tables
from mnet.studies.results.views import effects_table, summary_table
from mnet.studies.runs.images import accuracy_to_beat
from mnet.studies.runs.store import EFFECTS, PREDICTIONS, RUNS, SUMMARY, effects_chart_file, study_chart_file
from mnet.studies.study import Study


def print_summary(study: Study, tables: Tables, folder: Path, margin: float, seconds: Mapping[str, float]) -> None:
    """Print a study's cells, a sentence about each, and where the files are.

    Args:
        study: The study.
        tables: Tables of its finished runs.
        folder: Its folder.
        margin: The margin of its verdicts.
        seconds: Cell -> seconds that a seed of it and of the baseline takes on this machine.
    """
    summary = tables.summary
    if summary.empty:
        print(f"{study.name}: no finished run")
        return
    run_ids = [trial.run_id for _, trial in study.trials]
    _print_cells(study, tables)
    if not tables.effects.empty:
        _print_effects(tables.effects)
    if study.task.name == "classification" and (line := accuracy_to_beat(folder.parent, study.name, run_ids)):
        print(line)
    looks = looks_of(study, folder.parent)
    over = f"all rows and after {', '.join(map(str, looks))} seeds" if looks and len(looks) > 1 else "all rows"
    print(f"Test {study.task.headline.label} minus that of {study.baseline}; 95% intervals hold for {over} together:")
    for row in rows_of(summary[summary["pairs"].notna()]):
        name = str(row["cell"])
        print(f"  {sentence(name, row, margin, minutes_per_seed=seconds[name] / 60 if name in seconds else None)}")
    if (summary["verdict"] == "undecided").any():
        print(f"To decide the rest: make ablate-{study.name} UNTIL=decided, with the options of this call except SEEDS")
    for _, cell in summary[summary["failed"] > 0].iterrows():
        print(f"{cell['cell']}: {cell['failed']} failed: {cell['reason']}")
    figures = study_chart_file(study.name), effects_chart_file(study.name), PREDICTIONS
    for path in (folder / name for name in (RUNS, SUMMARY, EFFECTS, *figures)):
        if path.exists():
            print(f"  {path}")


def _print_cells(study: Study, tables: Tables) -> None:
    trials = [trial for _, trial in study.trials]
    models = ", ".join(dict.fromkeys(trial.model for trial in trials))
    datasets = ", ".join(dict.fromkeys(trial.dataset for trial in trials))
    metric = f"{study.task.headline.label} %"
    macro = ("macro %",) if MACRO in tables.summary else ()
    titles = ("cell", "n", metric, *macro, "sd", "difference", "95% interval", "verdict", "params", "MAdds")
    print_table(summary_table(tables.summary, tables.runs).select(*titles), f"{study.name}: {models} on {datasets}")


def _print_effects(effects: pd.DataFrame) -> None:
    titles = ("variant", "compared", "n", "difference", "95% interval", "verdict")
    table = effects_table(effects).select(*titles, "beyond the first", "its 95% interval")
    first = effects["variant"].iloc[0]
    print_table(table, f"within each variant; beyond the first: the difference to {first}")

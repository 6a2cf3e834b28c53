"""The two tables of a study: one row a run, one row a cell."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from mnet.errors import text
from mnet.files import write_csv
from mnet.studies.plots import plot_study
from mnet.studies.run import read_result
from mnet.studies.statistics import half_width, paired_deltas
from mnet.studies.sweep import Study
from mnet.studies.trial import Trial


def run_folder(study_folder: Path, trial: Trial) -> Path:
    """Where a trial of a study keeps its files."""
    return study_folder / "runs" / trial.run_id


def runs_table(study: Study, study_folder: Path) -> pd.DataFrame:
    """One row a finished run: study, cell, run_id, the trial's settings, and what was measured.

    A toggle at None reads `paper`.
    """
    rows = []
    for cell, trial in study.trials:
        result = read_result(run_folder(study_folder, trial))
        if result is not None:
            settings = {name: text(value) for name, value in trial.settings().items() if name != "data_dir"}
            identity = {"study": study.name, "run_id": trial.run_id, "cell": cell.name, "model": trial.model}
            recipe = trial.full_recipe()
            trained = {"batch_size": recipe.batch_size, "lr": recipe.lr, "seed": trial.seed}
            rows.append({**identity, **settings, **trained, **result})
    return pd.DataFrame(rows)


def summary_table(study: Study, runs: pd.DataFrame, metric: str = "top1") -> pd.DataFrame:
    """One row a cell, the baseline first: n, mean, sd and 95% interval, the paired delta to the baseline with its
    own, and cost. Empty without runs of the baseline."""
    if runs.empty or study.baseline not in set(runs["cell"]):
        return pd.DataFrame()
    rows = []
    for cell in (cell.name for cell in study.cells if cell.name in set(runs["cell"])):
        own = runs[runs["cell"] == cell]
        values = own[metric].to_numpy(float)
        rows.append(
            {
                "study": study.name,
                "cell": cell,
                "n": len(own),
                f"{metric}_mean": values.mean(),
                f"{metric}_sd": values.std(ddof=1) if len(values) > 1 else math.nan,
                f"{metric}_half_width": half_width(values),
                "params": own["params"].iloc[0],
                "madds": own["madds"].iloc[0],
            }
        )
    deltas = paired_deltas(runs, study.baseline, metric).rename(columns={"n": "pairs"})
    return pd.DataFrame(rows).merge(deltas, on="cell", how="left")


def write_tables(study: Study, study_folder: Path, *, figure: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write `runs.csv`, `summary.csv` and the figure of what is finished so far; returns both tables."""
    runs = runs_table(study, study_folder)
    summary = summary_table(study, runs)
    if not runs.empty:
        write_csv(study_folder / "runs.csv", runs)
    if not summary.empty:
        write_csv(study_folder / "summary.csv", summary)
    if figure and not summary.empty:
        title = f"{study.name}: {runs['model'].iloc[0]} on {runs['dataset'].iloc[0]}"
        plot_study(summary, runs, study_folder / f"{study.name}.png", title)
    return runs, summary

"""The tables of a study, computed from its results: one row per run, one row per cell. The same results give
the same bytes, except for `TIMING`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mnet.errors import text
from mnet.files import write_csv
from mnet.studies.plan import looks_of
from mnet.studies.results.bootstrap import nested_bootstrap
from mnet.studies.results.decide import differences, judge
from mnet.studies.results.effects import effects_table
from mnet.studies.results.statistics import MARGIN, at_most, half_width, table_by_seed
from mnet.studies.runs.store import (
    EFFECTS,
    RUNS,
    SUMMARY,
    TRAINER_FOLDER,
    Result,
    is_in_place,
    known_result,
    other_training,
    read_correct,
    read_failure,
    read_settings,
    run_folder,
)
from mnet.studies.study import Cell, Study
from mnet.studies.trial import Trial
from mnet.tasks import Metric

TIMING = ("train_seconds", "images_per_second", "replicas", "compile")
"""Columns of runs.csv that vary between executions."""

EXCLUDED_COLUMNS = ("finished", "format", "data_dir", "storage", "skip_unreadable", "start", "tested")
"""Settings and entries of result.json that tables leave out."""

MACRO = "macro_mean"
"""Column of summaries: mean accuracy over classes, if a user's own classes differ in size."""

TRAINER = "trainer"
"""Column of runs with other arguments of Lightning's Trainer: the text of `other_training`."""

RUN_COLUMNS = ("study", "run_id", "cell", "model")


def _summary_columns(metric: Metric) -> tuple[str, ...]:
    return (
        *("study", "cell", "n", metric.mean, metric.sd, metric.half_width, "params", "madds"),
        *("pairs", "delta", "low", "high", "p", "verdict", "look", "at_most", "seeds_needed"),
        *("boot_low", "boot_high", "failed", "reason"),
    )


WITHIN = "precision"
"""The option whose effect within every variant is tabulated, in a study that varies it."""


@dataclass(frozen=True)
class Tables:
    """The tables of the finished part of a study."""

    runs: pd.DataFrame
    """One row per finished run."""
    summary: pd.DataFrame
    """One row per cell with a finished or failed run, the baseline first."""
    effects: pd.DataFrame = field(default_factory=pd.DataFrame)
    """From `effects_table`; empty if the study does not vary `WITHIN`."""


def runs_table(study: Study, root: Path) -> pd.DataFrame:
    """One row per finished run: study, run_id, cell, the trial's settings, and the result. A toggle of None reads
    `paper`."""
    is_plain = TRAINER_FOLDER.fullmatch(root.absolute().name) is None
    rows = [
        run_row(study.name, cell.name, trial, result)
        | ({} if is_plain else {TRAINER: other_training(read_settings(folder)[1])})
        for cell, trial, folder, result in _finished(study, root)
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=RUN_COLUMNS)


def _finished(study: Study, root: Path) -> Iterator[tuple[Cell, Trial, Path, Result]]:
    """The finished runs of a study that have the Trainer arguments of this results folder, with their folders."""
    for cell, trial in study.trials:
        folder = run_folder(root, study.name, trial.run_id)
        if (result := known_result(folder)) is not None and is_in_place(folder):
            yield cell, trial, folder, result


def run_row(study: str, cell: str, trial: Trial, result: Mapping[str, object]) -> dict[str, object]:
    """The row of a finished run."""
    settings = {name: text(value) for name, value in trial.settings().items() if (name, value) != ("images", None)}
    identity = {"study": study, "run_id": trial.run_id, "cell": cell, "model": trial.model}
    recipe = trial.full_recipe()
    trained = {"batch_size": recipe.batch_size, "lr": recipe.lr, "seed": trial.seed}
    row = {**identity, **settings, **trained, **result}
    return {name: value for name, value in row.items() if name not in EXCLUDED_COLUMNS}


def summary_table(
    study: Study, runs: pd.DataFrame, root: Path, margin: float = MARGIN, looks: Sequence[int] | None = None
) -> pd.DataFrame:
    """One row per cell, the baseline first: n, mean, sd and half the 95% interval of the headline metric
    (`top1_mean`, `map_mean`); cost; the difference to the baseline with its verdict, see `decide`; and the number of
    failed seeds with the first reason.

    Args:
        study: The study.
        runs: From `runs_table`.
        root: The results folder.
        margin: Smallest difference of interest, in points.
        looks: Numbers of seeds after which the study is analysed; None = only now.
    """
    metric = study.task.headline
    rows: list[dict[str, object]] = []
    correct = _correct_by_seed(study, root)
    for cell in study.cells:
        finished = runs[runs["cell"] == cell.name]
        failures = [read_failure(run_folder(root, study.name, trial.run_id)) for trial in cell.trials]
        reasons = [reason for reason in failures if reason]
        if finished.empty and not reasons:
            continue
        row: dict[str, object] = {"study": study.name, "cell": cell.name, "n": len(finished)}
        if not finished.empty:
            values = finished[metric.name].to_numpy(float)
            row |= {
                metric.mean: values.mean(),
                metric.sd: values.std(ddof=1) if len(values) > 1 else math.nan,
                metric.half_width: half_width(values),
                **({MACRO: finished["macro"].mean()} if "macro" in finished else {}),
                "params": finished["params"].iloc[0],
                "madds": finished["madds"].iloc[0],
            }
        rows.append({**row, "failed": len(reasons), "reason": reasons[0] if reasons else ""})
    summary = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["study", "cell", "n"])
    if study.baseline in set(runs["cell"]) and len(set(runs["cell"])) > 1:
        summary = summary.merge(_compare(study, runs, correct, margin, looks), on="cell", how="left")
    columns = list(_summary_columns(metric))
    if MACRO in summary:
        columns.insert(columns.index(metric.half_width) + 1, MACRO)
    return summary.reindex(columns=columns)


def _compare(
    study: Study,
    runs: pd.DataFrame,
    correct: Mapping[str, Mapping[int, np.ndarray]],
    margin: float,
    looks: Sequence[int] | None,
) -> pd.DataFrame:
    """Every cell with a run against the baseline."""
    values = table_by_seed(runs, study.baseline, study.task.headline.name)
    values = values.reindex(columns=[cell.name for cell in study.cells])  # including cells without a run yet
    cells = [cell.name for cell in study.cells[1:] if values[cell.name].notna().any()]
    judged = judge(values, differences(values, [(name, study.baseline) for name in cells]), margin=margin, looks=looks)
    pairs = [int((values[name].notna() & values[study.baseline].notna()).sum()) for name in cells]
    limits = [at_most(low, high) for low, high in zip(judged["low"], judged["high"], strict=True)]
    boot = [nested_bootstrap(correct[name], correct[study.baseline]) for name in cells]
    table = judged.assign(cell=cells, pairs=pairs, at_most=limits)
    table["verdict"] = table["verdict"].where(table["low"].notna(), "")
    return table.assign(boot_low=[low for low, _ in boot], boot_high=[high for _, high in boot])


def _correct_by_seed(study: Study, root: Path) -> dict[str, dict[int, np.ndarray]]:
    """Cell -> seed -> which test images were classified correctly, for finished runs that recorded it."""
    by_cell: dict[str, dict[int, np.ndarray]] = {cell.name: {} for cell in study.cells}
    for cell, trial, folder, _ in _finished(study, root):
        if (correct := read_correct(folder)) is not None:
            by_cell[cell.name][trial.seed] = correct
    return by_cell


def margin_of(study: Study, root: Path, margin: float) -> float:
    """The margin, but at least the points of one test image: smaller differences cannot be measured."""
    for _, trial in study.trials:
        correct = read_correct(run_folder(root, study.name, trial.run_id))
        if correct is not None:
            return max(margin, 100 / len(correct))
    return margin


def write_tables(study: Study, root: Path, *, margin: float = MARGIN) -> Tables:
    """Write `runs.csv`, `summary.csv` and `effects.csv` of the runs finished so far, at the looks of the plan."""
    folder = root / study.name
    runs = runs_table(study, root)
    looks = looks_of(study, root)
    margin = margin_of(study, root, margin)
    summary = summary_table(study, runs, root, margin, looks)
    if not runs.empty:
        write_csv(folder / RUNS, runs)
    if not summary.empty:
        write_csv(folder / SUMMARY, summary)
    has_effects = WITHIN in study.varied and not runs.empty
    effects = effects_table(study, runs, WITHIN, margin, looks) if has_effects else pd.DataFrame()
    if not effects.empty:
        write_csv(folder / EFFECTS, effects)
    return Tables(runs, summary, effects)

"""The image files next to a study's tables."""

from __future__ import annotations

from pathlib import Path

from mnet.studies.report.charts.export import save_png
from mnet.studies.report.charts.study import effects_chart, study_chart
from mnet.studies.report.examples import save_examples
from mnet.studies.results.tables import Tables
from mnet.studies.runs.store import PREDICTIONS, effects_chart_file, study_chart_file
from mnet.studies.study import Study


def write_figures(study: Study, tables: Tables, root: Path) -> None:
    """Write `<study>.png`, `<study>-effects.png` and the examples, each if there is something to draw.

    Args:
        study: The study.
        tables: The tables of its finished runs.
        root: The results folder.
    """
    if tables.runs.empty:
        return
    folder = root / study.name
    names, datasets = (", ".join(dict.fromkeys(tables.runs[column])) for column in ("model", "dataset"))
    title = f"{study.name}: {names} on {datasets}"
    if tables.summary["delta"].notna().any():
        save_png(study_chart(tables.summary, tables.runs, title), folder / study_chart_file(study.name))
    if not tables.effects.empty:
        save_png(effects_chart(tables.effects, study.task.headline, title), folder / effects_chart_file(study.name))
    save_examples(study, root, folder / PREDICTIONS, title)

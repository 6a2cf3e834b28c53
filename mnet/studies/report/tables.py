"""The tables of the report: those of `results.views`, with the command and the details of each row."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from mnet.studies.report.commands import ResultsFolder, latency_command, run_command, settings_in
from mnet.studies.results import views
from mnet.studies.results.archive import is_known
from mnet.studies.results.table_view import (
    Cell,
    Record,
    Row,
    Table,
    build_table,
    is_number,
    number_column,
    rows_of,
    text_column,
)

VERDICT_WORDS = {
    **{"up": "better", "down": "worse", "flat": "no difference beyond the margin", "undecided": "undecided"},
}
"""Verdict on a difference -> its wording."""

OVERVIEW_COLUMNS = (
    *(text_column("cell"), text_column("study"), text_column("network"), number_column("n", digits=0)),
    *(number_column("y", "top-1 %"), *views.COST),
)
PAPER_COLUMNS = (
    *(text_column("name", "network"), text_column("network", "family"), text_column("measure")),
    *(number_column("y", "%", 1), number_column("madds", "MAdds, M", 0), number_column("params", "params, M", 2)),
    *(number_column("ms", "Pixel 1, ms", 1), text_column("source")),
)


def runs_table(runs: pd.DataFrame, folder: ResultsFolder) -> Table:
    rows, rates = rows_of(runs), learning_rates(runs)
    settings = [", ".join(f"{name}={value}" for name, value in settings_in(row).items()) for row in rows]
    commands = [run_command(folder, row, rates) for row in rows]
    details = [[f"settings: {text or 'as in the paper'}"] for text in settings]
    return views.runs_table(runs).without_empty_columns().annotate(commands, details)


def summary_table(summary: pd.DataFrame, runs: pd.DataFrame, folder: ResultsFolder) -> Table:
    """The cells of a study, each with its failures and the command that trains its seeds."""
    commands: dict[str, list[str]] = {}
    for run in rows_of(runs):
        commands.setdefault(str(run["cell"]), []).append(run_command(folder, run, learning_rates(runs)))

    def failures(row: Row) -> list[str]:
        failed = row.get("failed")
        return [f"{failed:.0f} failed: {row['reason']}"] if is_number(failed) and failed else []

    rows = rows_of(summary)
    table = views.summary_table(summary, runs).without_empty_columns()
    return table.annotate(["\n".join(commands.get(str(row["cell"]), ())) for row in rows], map(failures, rows))


def learning_rates(runs: pd.DataFrame) -> list[float]:
    return list(dict.fromkeys(runs["lr"])) if "lr" in runs else []


def effects_table(effects: pd.DataFrame) -> Table:
    commands = [f"make ablate-{study}" for study in effects["study"]]
    return views.effects_table(effects).without_empty_columns().annotate(commands)


def latency_table(latency: pd.DataFrame) -> Table:
    def details(row: Row) -> list[str]:
        exported = [f"exported: {row['file']}, sha256 {row['sha256']}"] if is_known(row.get("file")) else []
        return [*exported, *([f"note: {row['note']}"] if is_known(row.get("note")) else [])]

    rows = rows_of(latency)
    return views.latency_table(latency).without_empty_columns().annotate(map(latency_command, rows), map(details, rows))


def frontier_table(frontier: pd.DataFrame) -> Table:
    commands = [latency_command(row, "frontier") for row in rows_of(frontier)]
    return views.frontier_table(frontier).without_empty_columns().annotate(commands)


def blocks_table(caption: str, blocks: pd.DataFrame, command: str) -> Table:
    return views.blocks_table(caption, blocks).annotate([command] * len(blocks))


def overview_table(cells: pd.DataFrame) -> Table:
    """The cells of all studies."""
    return build_table("All cells", OVERVIEW_COLUMNS, cells).without_empty_columns()


def papers_table(points: pd.DataFrame) -> Table:
    """The networks that the papers publish."""
    return build_table("Published points", PAPER_COLUMNS, points).without_empty_columns()


def provenance_table(frames: Iterable[tuple[str, pd.DataFrame]]) -> Table:
    """Hardware, versions and dates of the numbers: the distinct values of every table."""
    records = []
    for name, frame in frames:
        columns = ("device", "threads", "runtime", "version", "torch", "mnet", "revision", "finished")
        records.append(Record([Cell(name), *(Cell(distinct(frame, column)) for column in columns)]))
    titles = ("table", "hardware", "threads", "runtime", "its version", "torch", "mnet", "revision", "finished")
    return Table("Hardware and versions", dict.fromkeys(titles, False), records)


def distinct(frame: pd.DataFrame, column: str) -> str:
    """The distinct values of a column; for `finished`, the first and the last day."""
    if column not in frame:
        return ""
    values = list(dict.fromkeys(str(value) for value in frame[column] if is_known(value)))
    if column == "finished":
        days = sorted({value[:10] for value in values})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""
    return ", ".join(values)

"""A table as a reader sees it: formatted cells, each with the number it is sorted by. Renderers only lay it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, cast

import pandas as pd

from mnet.errors import unknown
from mnet.studies.results.archive import is_known

MILLION = 1e6

Row = Mapping[str, Any]
"""A row of a data frame, by column."""


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None
    """Sort key; None = the text."""


@dataclass(frozen=True)
class Column:
    """A column of a table, formatted from the rows of a data frame."""

    title: str
    cell: Callable[[Row], Cell]
    numeric: bool = True
    """Whether it is aligned to the right."""


@dataclass(frozen=True)
class Record:
    """A row, the details and the command shown on demand, and the rows grouped below it."""

    cells: Sequence[Cell]
    details: Sequence[str] = ()
    command: str = ""
    evidence: Sequence[Record] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    """Values the table can be filtered by."""


@dataclass(frozen=True)
class Table:
    """`columns` maps each title to whether the column is numeric."""

    caption: str
    columns: Mapping[str, bool]
    records: Sequence[Record]

    def select(self, *titles: str) -> Table:
        """The table with these columns, in this order."""
        index = {title: i for i, title in enumerate(self.columns)}
        for title in titles:
            if title not in index:
                raise unknown("column", title, index)

        def pick(record: Record) -> Record:
            cells = [record.cells[index[title]] for title in titles]
            return replace(record, cells=cells, evidence=[pick(row) for row in record.evidence])

        return Table(
            self.caption, {title: self.columns[title] for title in titles}, [pick(row) for row in self.records]
        )

    def without_empty_columns(self) -> Table:
        """The table without the columns that are empty in all rows."""
        filled = [title for i, title in enumerate(self.columns) if any(record.cells[i].text for record in self.records)]
        return self.select(*filled)

    def annotate(self, commands: Iterable[str], details: Iterable[Sequence[str]] | None = None) -> Table:
        """The table with a command, and details, for each record."""
        details = [()] * len(self.records) if details is None else details
        rows = zip(self.records, commands, details, strict=True)
        return replace(self, records=[replace(row, command=command, details=lines) for row, command, lines in rows])

    def texts(self) -> list[list[str]]:
        return [[cell.text for cell in record.cells] for record in self.records]

    def frame(self, index: str | None = None) -> pd.DataFrame:
        """The table as a data frame of strings.

        Args:
            index: Title of the column that becomes the index; None = rows are numbered.
        """
        frame = pd.DataFrame(self.texts(), columns=list(self.columns), dtype="object")
        return frame if index is None else frame.set_index(index)


def build_table(caption: str, columns: Sequence[Column], frame: pd.DataFrame) -> Table:
    """One record per row of a data frame. A column that the frame lacks stays empty."""
    records = [Record([column.cell(row) for column in columns]) for row in rows_of(frame)]
    return Table(caption, {column.title: column.numeric for column in columns}, records)


def join_tables(tables: Iterable[Table]) -> Table:
    """The records of tables with the same columns, one after another."""
    first, *rest = tables
    return replace(first, records=[record for table in (first, *rest) for record in table.records])


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a data frame with string keys."""
    return cast(list[dict[str, Any]], frame.to_dict("records"))


def text_column(name: str, title: str | None = None) -> Column:
    return Column(title or name, lambda row: Cell(str(row[name]) if is_known(row.get(name)) else ""), numeric=False)


def number_column(
    name: str, title: str | None = None, digits: int = 2, *, sign: bool = False, scale: float = 1, unit: str = ""
) -> Column:
    return Column(title or name, lambda row: number_cell(row.get(name), digits, sign=sign, scale=scale, unit=unit))


def interval_column(low: str, high: str, title: str = "95% interval", digits: int = 2, *, sign: bool = False) -> Column:
    """A column of intervals, sorted by their lower end."""
    return Column(title, lambda row: interval_cell(row.get(low), row.get(high), digits, sign=sign))


def flag_column(name: str, title: str | None = None) -> Column:
    """A column of yes and no."""

    def cell(row: Row) -> Cell:
        return Cell(("yes" if row[name] else "no") if is_known(row.get(name)) else "")

    return Column(title or name, cell, numeric=False)


def number_cell(value: object, digits: int = 2, *, sign: bool = False, scale: float = 1, unit: str = "") -> Cell:
    """A cell with a number; empty if there is none."""
    if not is_number(value):
        return Cell("")
    return Cell(format_number(value / scale, digits, sign=sign) + unit, float(value))


def interval_cell(low: object, high: object, digits: int = 2, *, sign: bool = False) -> Cell:
    text = format_interval(low, high, digits, sign=sign)
    return Cell(text, low if text and is_number(low) else None)


def format_number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''},.{digits}f}"


def format_interval(low: object, high: object, digits: int = 2, *, sign: bool = False) -> str:
    """`[low, high]`; empty if an end is missing."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{format_number(low, digits, sign=sign)}, {format_number(high, digits, sign=sign)}]"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

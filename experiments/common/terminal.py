"""Lines and tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnet.errors import path_text
from mnet.studies.results.table_view import Table as TableView

WIDTH = 160
"""Width, in characters, of a table that is written to a file or a pipe."""


def make_console() -> Console:
    """A console for tables: as wide as the terminal, or `WIDTH`."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def print_line(console: Console, line: str, style: str | None = None) -> None:
    """Print text without markup, above any live display; a long line is not wrapped."""
    console.print(path_text(line), style=style, markup=False, highlight=False, soft_wrap=True)


def print_table(table: TableView, title: str | None = None, styles: Mapping[str, str] | None = None) -> None:
    """Print a table.

    Args:
        table: The table.
        title: Title above the table.
        styles: Text of a cell -> its colour.
    """
    print_rows(title, table.columns, table.texts(), styles=styles)


def print_rows(
    title: str | None,
    columns: Mapping[str, bool],
    rows: Iterable[Sequence[str]],
    *,
    footer: Sequence[str] | None = None,
    styles: Mapping[str, str] | None = None,
) -> None:
    """Print rows of text.

    Args:
        title: Title above the table.
        columns: Title -> whether the column is numeric, and so aligned to the right.
        rows: The cells of each row, in the order of `columns`.
        footer: A last row, set apart.
        styles: Text of a cell -> its colour.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title, show_footer=footer is not None)
    for i, (name, numeric) in enumerate(columns.items()):
        table.add_column(
            Text(name),
            Text(footer[i]) if footer is not None else "",
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric,
        )
    for row in rows:
        table.add_row(*(Text(path_text(cell), style=(styles or {}).get(cell, "")) for cell in row))
    make_console().print(table)


def format_duration(seconds: float) -> str:
    """`0`, `6 min` or `31 h`, rounded."""
    minutes = seconds / 60
    if minutes < 1:
        return "0" if not minutes else "< 1 min"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"

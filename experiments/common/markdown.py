"""Markdown tables, and documents with tables between marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from mnet.errors import path_text
from mnet.studies.results.table_view import Table


def markdown_table(table: Table) -> str:
    """A table in Markdown, numeric columns aligned to the right."""
    return pipe_table(list(table.columns), table.texts(), [title for title, right in table.columns.items() if right])


def pipe_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """A Markdown table; the columns in `right` are aligned to the right."""
    marks = ["--:" if title in right else "---" for title in titles]
    cells = [[cell_text(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (titles, marks, *cells))


def cell_text(text: str) -> str:
    """Escape the text of a cell, so that it cannot end a cell or row, or begin HTML, a link or an image."""
    plain = path_text(" ".join(text.split())).replace("|", r"\|").replace("](", r"]\(")
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", plain)


def fill_marks(text: str, table: Callable[[str], str]) -> str:
    """A document with `table(NAME)` between each `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    return re.sub(
        r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->",
        lambda match: f"<!-- begin {match[1]} -->\n{table(match[1])}\n<!-- end {match[1]} -->",
        text,
        flags=re.DOTALL,
    )

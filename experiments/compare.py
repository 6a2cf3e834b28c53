"""Say what differs between two runs, in settings, code and machine, and by how much their results do.

    python experiments/compare.py activation:relu:0 activation:hswish:0
    python experiments/compare.py c6cd2d results/activation/runs/c6cd2d9cae27

A run is study:cell:seed, a run id or its beginning, a run's folder, or entity/project/id of W&B.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import read_own_options
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnet.errors import ConfigError
from mnet.studies.results.compare import Change, Comparison, Difference, PairedImages, compare, written
from mnet.studies.results.lookup import Run, find_run
from mnet.studies.results.revisions import History

DIGITS = {"points": 2, "s": 1, "1/s": 1, "": 4}
"""Unit -> digits after the point."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    out: str = "results"
    """Folder for results."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    try:
        names, options = read_arguments(sys.argv[1:] if arguments is None else arguments)
        a, b = (find_run(name, Path(options.out)) for name in names)
        found = compare(a, b)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(found)
    return 0


def read_arguments(arguments: Sequence[str]) -> tuple[tuple[str, str], Options]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("a", help="the run that differences start from")
    parser.add_argument("b", help="the run that they lead to")
    given, options = read_own_options(parser, Options, arguments)
    return (given.a, given.b), options


def show(found: Comparison) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for letter, run in (("A", found.a), ("B", found.b)):
        console.print(f"{letter}  {run.name}  {place(run)}", markup=False, highlight=False)
    if not found.same:
        show_all(console, found)
    console.print("\n".join(found.conclusion), markup=False, highlight=False)


def show_all(console: Console, found: Comparison) -> None:
    for title, differences in (("settings", found.settings), ("they resolve to", found.resolved)):
        show_differences(console, title, differences)
    show_differences(console, "code", found.code)
    show_history(console, found.history)
    show_differences(console, "versions and hardware", found.machine)
    show_results(console, found.results)
    show_images(console, found.images)


def place(run: Run) -> str:
    return f"{run.run_id}, {run.folder or 'without its folder'}"


def show_differences(console: Console, title: str, differences: Sequence[Difference]) -> None:
    if differences:
        rows = ((one.name, written(one.a), written(one.b)) for one in differences)
        show_table(console, (title, "A", "B"), rows)
    else:
        console.print(f"\n {title}: the same", markup=False, highlight=False)


def show_history(console: Console, history: History | None) -> None:
    if history is None:
        return
    if history.files or not history.note:
        changed = " of mnet; files:" if history.files else "; no file of mnet differs"
        console.print(f" commits that only A has: {history.only_a}, only B: {history.only_b}{changed}", highlight=False)
    for line in (*history.files, history.note):
        if line:
            console.print(f" {line}", markup=False, highlight=False)


def show_results(console: Console, results: Sequence[Change]) -> None:
    rows = []
    for one in results:
        digits = DIGITS[one.unit]
        rows.append((one.name, f"{one.a:.{digits}f}", f"{one.b:.{digits}f}", f"{one.delta:+.{digits}f} {one.unit}"))
    show_table(console, ("results", "A", "B", "B - A"), rows, justify="right")


def show_images(console: Console, images: PairedImages | None) -> None:
    if images is None:
        said = "the same test images: not compared, which ones were right is not known of both"
    else:
        said = (
            f"the same {images.count:,} test images: only A right {images.only_a}, only B {images.only_b}; "
            f"B - A {images.delta:+.2f} points [{images.low:+.2f}, {images.high:+.2f}] (95%, Wald with "
            f"Bonett-Price adjustment), p {images.p:.2g} (McNemar, exact). About these two trained networks on other "
            "such images, not about other seeds."
        )
    console.print(f" {said}\n", markup=False, highlight=False)


def show_table(console: Console, names: Sequence[str], rows: Iterable[Sequence[str]], justify: str = "left") -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for position, name in enumerate(names):
        table.add_column(name, justify="right" if position and justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

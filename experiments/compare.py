"""Show what differs between two runs, in settings, code and machine, and by how much their results differ.

    python experiments/compare.py activation:relu:0 activation:hswish:0
    python experiments/compare.py c6cd2d results/activation/runs/c6cd2d9cae27

A run is study:cell:seed, a run id or its beginning, a run's folder, or entity/project/id of W&B.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import Arguments, Parser
from common.program import program
from common.terminal import print_rows

from mnet.studies.results.compare import Change, Comparison, Difference, PairedImages, compare, format_value
from mnet.studies.results.lookup import find_run
from mnet.studies.results.revisions import History

DIGITS = {"points": 2, "s": 1, "1/s": 1, "": 4}
"""Unit -> digits after the point."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "results"
    """Folder for results."""


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__)
    parser.add_argument("a", help="the first run")
    parser.add_argument("b", help="the second run; differences are b - a")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    given = read_arguments(arguments)
    root = Path(given.options.out)
    show(compare(find_run(given.values.a, root), find_run(given.values.b, root)))
    return 0


def show(comparison: Comparison) -> None:
    """Print a comparison, from settings to results."""
    for letter, run in (("A", comparison.a), ("B", comparison.b)):
        print(f"{letter}  {run.name}  {run.run_id}, {run.folder or 'no folder'}")
    if not comparison.same:
        show_differences("settings", comparison.settings)
        show_differences("resolved settings", comparison.resolved)
        show_differences("code", comparison.code)
        for line in history_lines(comparison.history):
            print(f" {line}")
        show_differences("versions and hardware", comparison.environment)
        show_results(comparison.results)
        print(f" {describe_images(comparison.images)}\n")
    print("\n".join(comparison.conclusion))


def show_differences(title: str, differences: Sequence[Difference]) -> None:
    if differences:
        rows = [(row.name, format_value(row.a), format_value(row.b)) for row in differences]
        print_rows(None, {title: False, "A": False, "B": False}, rows)
    else:
        print(f"\n {title}: the same")


def history_lines(history: History | None) -> Iterator[str]:
    if history is None:
        return
    if history.files or not history.note:
        changed = "; changed files of mnet:" if history.files else "; no file of mnet differs"
        yield f"commits only in A: {history.only_a}, only in B: {history.only_b}{changed}"
    yield from filter(None, (*history.files, history.note))


def show_results(results: Sequence[Change]) -> None:
    rows = []
    for row in results:
        digits = DIGITS[row.unit]
        rows.append((row.name, f"{row.a:.{digits}f}", f"{row.b:.{digits}f}", f"{row.delta:+.{digits}f} {row.unit}"))
    print_rows(None, {"results": False, "A": True, "B": True, "B - A": True}, rows)


def describe_images(images: PairedImages | None) -> str:
    if images is None:
        return "the same test images: not compared, since it is not recorded which ones both runs got right"
    return (
        f"the same {images.count:,} test images: only A right {images.only_a}, only B {images.only_b}; "
        f"B - A {images.delta:+.2f} points [{images.low:+.2f}, {images.high:+.2f}] (95%, Wald with Bonett-Price "
        f"adjustment), p {images.p:.2g} (McNemar, exact). This is about these two trained networks on more such "
        "images, not about other seeds."
    )


if __name__ == "__main__":
    sys.exit(main())

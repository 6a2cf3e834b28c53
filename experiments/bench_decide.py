"""Simulate studies with known effects: how often a verdict is wrong, and how many seeds one takes.

`python experiments/bench_decide.py`, about three minutes; `experiments/publish.py` copies the table into docs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from benchmarks.decisions import STUDIES, rows
from common.options import Arguments, Parser, check_positive
from common.program import program

from mnet.files import write_csv
from mnet.studies.runs.store import BENCH_DECIDE


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    studies: int = STUDIES
    """Studies of each kind."""
    out: str = "results"
    """Folder for the table."""

    def __post_init__(self) -> None:
        check_positive(self, "studies")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = read_arguments(arguments).options
    table: list[dict[str, object]] = []
    for row in rows(options.studies):
        table.append(row)
        print(
            f"{row['studies']}, {row['rule']}: wrong in {row['wrong']:.1%}, covered {row['coverage']:.1%}, "
            f"{row['seeds']:.1f} seeds, undecided {row['undecided']:.1%}",
            flush=True,
        )
        write_csv(Path(options.out) / BENCH_DECIDE, pd.DataFrame(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

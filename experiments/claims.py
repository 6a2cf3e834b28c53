"""Judge the papers' claims by what was measured: `python experiments/claims.py`.

Reads the results folder, including its published tables. Nothing is trained or timed: to measure more, run a study,
with PROFILE=longer or full for more claims.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from common.evaluation import evaluate_claims
from common.options import Arguments, Parser
from common.program import program
from common.terminal import print_table

from mnet.files import write_csv
from mnet.studies.claims.evidence import count_verdicts, headlines
from mnet.studies.claims.views import claims_table
from mnet.studies.runs.store import CLAIMS

STYLES = {
    **{"reproduced": "green", "weaker": "cyan", "stronger": "cyan", "absent": "magenta", "contradicted": "red"},
    **{"undecided": "yellow", "not tested here": "dim"},
}
TITLES = ("claim", "paper", "ours", "95% interval", "n", "verdict", "why")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "results"
    """Folder for results."""
    all: bool = False
    """Print all evidence, not only the headline of each claim."""


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = read_arguments(arguments).options
    root = Path(options.out)
    table = evaluate_claims(root)
    write_csv(root / CLAIMS, table)
    show(table if options.all else headlines(table))
    print(", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(table).items()))
    from common.pages import write_pages  # charts take a second to import

    for path in (root / CLAIMS, *write_pages(root)):
        print(f"  {path}")
    return 0


def show(evidence: pd.DataFrame) -> None:
    """Print rows of evidence."""
    print_table(claims_table(evidence).select(*TITLES), styles=STYLES)


if __name__ == "__main__":
    sys.exit(main())

"""Write the report, an HTML file that opens offline: `python experiments/report.py [study ...]`.

Without a study, all of them go into OUT/report.html; with some, each goes into OUT/<study>/report.html. Tables that OUT
does not have are taken from the published results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.options import Arguments, Parser
from common.pages import write_pages
from common.program import program

from mnet.errors import unknown
from mnet.studies.report.page import studies_with_results


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "results"
    """Folder of the results, and for the report."""


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__)
    parser.add_argument("study", nargs="*", help="studies with results; none = all, on one page")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    given = read_arguments(arguments)
    root, studies = Path(given.options.out), given.values.study
    with_results = studies_with_results(root)
    for name in studies:
        if name not in with_results:
            raise unknown(f"study with results in {root}", name, with_results)
    for path in write_pages(root, studies or None):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

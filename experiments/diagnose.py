"""What is inside trained networks: `python experiments/diagnose.py activation`, or without a name of every study.

Dead depthwise kernels, silent channels, the rank that a non-linearity leaves, and ranges of values, layer by layer, on
test images; and what V2 and V3 say of a single non-linearity, recomputed: how much of a curve comes back through
ReLU, and how far h-swish is from swish.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common.markdown import markdown_table, pipe_table
from common.options import SWEEPS
from rich.console import Console

from mnet.errors import ConfigError, DataError
from mnet.files import write_csv
from mnet.models.diagnostics import DEAD, hard_swish_gap, through_relu
from mnet.studies.results import views
from mnet.studies.results.archive import study_table
from mnet.studies.results.diagnosis import (
    DEATHS_FIGURE,
    FIGURE,
    deaths_summary,
    deaths_table,
    inside_summary,
    inside_table,
    plot_deaths,
    plot_inside,
)
from mnet.studies.runs.store import DEATHS, INSIDE, WEIGHTS
from mnet.studies.study import list_studies

DIMENSIONS = (2, 3, 5, 15, 30)
"""Those of V2's figure 1."""
DRAWS = 200
"""Random matrices of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", help="files of experiments/sweeps, without .yaml; none = all with weights")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for results")
    parser.add_argument("--pictures", type=int, default=256, help="of the test split")
    options = parser.parse_args(arguments)
    try:
        if options.pictures < 2:
            raise ConfigError(f"pictures must be at least 2, not {options.pictures}")
        names = options.study or [
            name for name in list_studies(SWEEPS) if any((options.out / name).glob(f"runs/*/{WEIGHTS}"))
        ]
        if not names:
            raise ConfigError(f"no trained networks in {options.out}; make ablate-activation trains some")
        tell_theory()
        for name in names:
            diagnose(options.out, name, options.pictures)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tell_theory() -> None:
    """Figure 1 of V2 and figure 6 of V3, as numbers."""
    found = pd.DataFrame([[one.lost for one in through_relu(DIMENSIONS, seed)] for seed in range(DRAWS)])
    rows = [
        [f"{count}", f"{found[i].median():.1%}", f"{found[i].quantile(0.025):.1%} to {found[i].quantile(0.975):.1%}"]
        for i, count in enumerate(DIMENSIONS)
    ]
    print(f"A spiral through ReLU and back (V2, figure 1; {DRAWS} random matrices):")
    print(pipe_table(("dimensions", "variance lost, median", "95% of the matrices"), rows))
    gap = hard_swish_gap()
    print(f"h-swish less swish: at most {gap['largest']:+.3f}, at {gap['at']:+.2f}; {gap['mean']:.3f} on average\n")


def diagnose(root: Path, study: str, images: int) -> None:
    table = inside_table(root, study, images)
    summary = inside_summary(table)
    write_csv(root / study / INSIDE, table)
    title = f"Inside the networks of {study}, on {images} test images"
    plot_inside(table, root / study / FIGURE, title)
    print(f"{title}; mean over seeds with 95% t intervals:")
    print(markdown_table(views.inside_table(summary)))
    files = [INSIDE, FIGURE]
    if len(deaths := deaths_table(root, study)):
        tell_deaths(root, study)
        write_csv(root / study / DEATHS, deaths)
        plot_deaths(deaths, root / study / DEATHS_FIGURE, f"Dead depthwise kernels of {study}, through training")
        files += [DEATHS, DEATHS_FIGURE]
    least = table["least"].min()
    print(f"The least norm of a depthwise kernel is {least:.3f} of a new one's; dead is below {DEAD:g}.")
    for name in files:
        Console().print(f"  {root / study / name}", highlight=False, soft_wrap=True)


def tell_deaths(root: Path, study: str) -> None:
    """The share that died of each cell, and whether that differs from the first of its model."""
    summary = deaths_summary(study_table(root, study).dropna(subset=["dead_kernels"]))
    titles = ("cell", "dead %", "half width", "difference", "95% interval", "verdict")
    print("Dead depthwise kernels at the end, and the difference to the first cell of the model, paired by seed:")
    print(markdown_table(views.deaths_table(summary).select(*titles)))


if __name__ == "__main__":
    sys.exit(main())

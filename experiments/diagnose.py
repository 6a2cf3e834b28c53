"""Look inside trained networks: `python experiments/diagnose.py activation`, or without a name, every study.

Reports dead depthwise kernels, silent channels, the rank that a non-linearity leaves and the ranges of values, layer by
layer, on test images. Also recomputes what V2 and V3 state about a single non-linearity: how much of a curve survives
ReLU, and how far h-swish is from swish. With --weights=FILE, analyses only the depthwise kernels of those weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from common.markdown import markdown_table, pipe_table
from common.options import Arguments, Parser
from common.program import program
from common.sweeps import SWEEPS

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.models.diagnostics import DEAD, depthwise_kernels, hard_swish_gap, through_relu
from mnet.studies.report.charts.diagnosis import deaths_chart, inside_chart
from mnet.studies.report.charts.export import save_png
from mnet.studies.results import views
from mnet.studies.results.archive import study_table
from mnet.studies.results.diagnosis import (
    deaths_summary,
    deaths_table,
    inside_summary,
    inside_table,
)
from mnet.studies.runs.store import DEATHS, DEATHS_CHART, INSIDE, INSIDE_CHART, WEIGHTS, runs_with
from mnet.studies.study import list_studies
from mnet.weights.files import split_entry
from mnet.weights.load import open_weights

DIMENSIONS = (2, 3, 5, 15, 30)
"""The dimensions in V2's figure 1."""
FORMS = {"near_zero": ".1%", "least": ".3f", "median": ".3f"}
DRAWS = 200
"""Random matrices for each dimension."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "results"
    """Folder for results."""
    pictures: int = 256
    """Number of test images."""
    weights: str | None = None
    """A weights file of torchvision or timm, to analyse its depthwise kernels."""
    model: str = "mobilenet_v1"
    """The model of the weights, if their names and shapes fit several."""

    def __post_init__(self) -> None:
        if self.pictures < 2:
            raise ConfigError(f"pictures must be at least 2, not {self.pictures}")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__)
    parser.add_argument("study", nargs="*", help="studies of experiments/sweeps, by name; none = all with weights")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    given = read_arguments(arguments)
    root, images = Path(given.options.out), given.options.pictures
    if given.options.weights is not None:
        return diagnose_weights(given.options.weights, given.options.model, root)
    trained = (name for name in list_studies(SWEEPS) if any(runs_with(WEIGHTS, root / name)))
    studies = given.values.study or list(trained)
    if not studies:
        raise ConfigError(f"no trained networks in {root}; make ablate-activation trains some")
    show_theory()
    for study in studies:
        diagnose(root, study, images)
    return 0


def diagnose_weights(source: str, model: str, root: Path) -> int:
    """Print and write the depthwise kernels of a file of weights, layer by layer.

    Their initialisation is unknown, so a kernel is called near zero relative to the largest of its layer.
    """
    net, summary = open_weights(source, model)
    layers = {one.layer: one.norms / one.norms.max() for one in depthwise_kernels(net)}
    rows = [
        {"layer": name, "kernels": len(norms), "near_zero": float((norms < DEAD).float().mean()),
         "least": float(norms.min()), "median": float(norms.median())} for name, norms in layers.items()
    ]  # fmt: skip
    cells = [
        [str(row["layer"]), f"{row['kernels']}", *(f"{row[name]:{form}}" for name, form in FORMS.items())]
        for row in rows
    ]
    print(summary)
    print(pipe_table(("layer", "kernels", "near zero", "smallest norm", "median norm"), cells))
    norms = torch.cat(list(layers.values()))
    share = float((norms < DEAD).float().mean())
    print(
        f"{share:.1%} of {len(norms):,} depthwise kernels are near zero: below {DEAD:g} of the largest of their layer."
    )
    path = root / f"kernels-{split_entry(source)[0].stem}.csv"
    write_csv(path, pd.DataFrame(rows))
    print(f"  {path}")
    return 0


def show_theory() -> None:
    """Print figure 1 of V2 and figure 6 of V3 as numbers."""
    lost = pd.DataFrame([[curve.lost for curve in through_relu(DIMENSIONS, seed)] for seed in range(DRAWS)])
    rows = [
        [f"{count}", f"{lost[i].median():.1%}", f"{lost[i].quantile(0.025):.1%} to {lost[i].quantile(0.975):.1%}"]
        for i, count in enumerate(DIMENSIONS)
    ]
    print(f"A spiral through ReLU and back (V2, figure 1; {DRAWS} random matrices):")
    print(pipe_table(("dimensions", "variance lost, median", "95% of the matrices"), rows))
    gap = hard_swish_gap()
    print(f"h-swish minus swish: at most {gap['largest']:+.3f}, at {gap['at']:+.2f}; {gap['mean']:.3f} on average\n")


def diagnose(root: Path, study: str, images: int) -> None:
    """Write and print the tables of one study, and draw its figures."""
    layers = inside_table(root, study, images)
    files = [root / study / name for name in (INSIDE, INSIDE_CHART)]
    write_csv(files[0], layers)
    title = f"Inside the networks of {study}, on {images} test images"
    save_png(inside_chart(layers, title), files[1])
    print(f"{title}; mean over seeds with 95% t intervals:")
    print(markdown_table(views.inside_table(inside_summary(layers))))
    if len(deaths := deaths_table(root, study)):
        show_deaths(root, study)
        files += [root / study / name for name in (DEATHS, DEATHS_CHART)]
        write_csv(files[2], deaths)
        save_png(deaths_chart(deaths, f"Dead depthwise kernels of {study}, through training"), files[3])
    least = layers["least"].min()
    print(f"The smallest norm of a depthwise kernel is {least:.3f} of its initial one; dead means below {DEAD:g}.")
    for path in files:
        print(f"  {path}")


def show_deaths(root: Path, study: str) -> None:
    """Print the share of each cell's kernels that died, and its difference to the first cell of the same model."""
    summary = deaths_summary(study_table(root, study).dropna(subset=["dead_kernels"]))
    titles = ("cell", "dead %", "half width", "difference", "95% interval", "verdict")
    print("Dead depthwise kernels at the end, and the difference to the first cell of the model:")
    print(markdown_table(views.deaths_table(summary).select(*titles)))


if __name__ == "__main__":
    sys.exit(main())

"""The papers' claims beside what was measured here: `python experiments/claims.py`, with verdicts.

Reads what the studies left in the results folder, and the published tables where they left nothing. Nothing is trained
or timed; `PROFILE=` of a study decides what there is to read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from common.options import HERE, SWEEPS, overrides, read_own_options, sweep_file
from common.terminal import rich_table
from rich.console import Console

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.studies.claims import views
from mnet.studies.claims.claims import load_claims
from mnet.studies.claims.evidence import claims_table, count_verdicts, headlines
from mnet.studies.results.archive import studies_with, study_table
from mnet.studies.results.loading import load
from mnet.studies.results.tables import run_row
from mnet.studies.runs.store import CLAIMS, LATENCY, LATENCY_CLAIMS, SUMMARY, TRACE
from mnet.studies.study import list_studies, load_study

PROFILES = ("quick", "longer", "full")
"""Where a claim's networks are looked for, the cheapest first."""
STYLES = {"reproduced": "green", "contradicted": "red", "inconclusive": "yellow", "not tested here": "dim"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    out: str = "results"
    """Folder for results."""
    all: bool = False
    """Print every piece of evidence, not the first of each claim."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    try:
        _, options = read_own_options(parser, Options, arguments)
        root = Path(options.out)
        table = evaluate(root)
        write_csv(root / CLAIMS, table)
        show(table if options.all else headlines(table))
        print(", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(table).items()))
        from report import write  # the charts take a second to import

        for path in (root / CLAIMS, *write(root)):
            print(f"  {path}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(root: Path) -> pd.DataFrame:
    """Every claim of claims.yaml against what a results folder holds."""
    return claims_table(
        load_claims(HERE / "claims.yaml"),
        runs=load(root),
        planned=pd.DataFrame(planned()),
        latencies={study: timed(root, study) for study in studies_with(root, LATENCY_CLAIMS)},
        searches={name: study_table(root, name, SUMMARY) for name in studies_with(root, TRACE)},
    )


def planned() -> Iterator[dict[str, object]]:
    """Every cell that a study has under some profile, and the command that trains it."""
    for profile in PROFILES:
        for name in list_studies(SWEEPS):
            command = f"make ablate-{name}" + ("" if profile == PROFILES[0] else f" PROFILE={profile}")
            for cell, trial in load_study(sweep_file(name), overrides(name, profile, 1, {})).trials:
                known = {"epochs": trial.full_recipe().epochs, "resolution": trial.input_spec().resolution}
                yield {**run_row(name, cell.name, trial, known), "command": command}


def timed(root: Path, study: str) -> pd.DataFrame:
    """The latency claims of a study, with the machine, and what ran outside the fast kernels."""
    keys = ["variant", "runtime", "threads"]
    rows = study_table(root, study, LATENCY)
    slow = rows[[*keys, "undelegated_ops"]].drop_duplicates(keys).rename(columns={"undelegated_ops": "fell_back"})
    claims = study_table(root, study, LATENCY_CLAIMS).merge(slow, how="left", on=keys)
    return claims.assign(device=rows["device"].iloc[0], fell_back=claims["fell_back"].fillna(""))


def show(evidence: pd.DataFrame) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    titles = ("claim", "paper", "ours", "95% interval", "n", "verdict", "why")
    console.print(rich_table(views.claims_table(evidence).select(*titles), styles=STYLES))


if __name__ == "__main__":
    sys.exit(main())

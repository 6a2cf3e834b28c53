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
from options import HERE, SWEEPS, overrides, read_options, refuse, sweep_file
from rich import box
from rich.console import Console
from rich.table import Table

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.settings import hints
from mnet.studies.archive import CLAIMS, LATENCY, load, studies_with, study_table
from mnet.studies.claims import load_claims
from mnet.studies.evidence import claims_table, count_verdicts, headlines
from mnet.studies.latency import CLAIMS_FILE, KEY
from mnet.studies.results import run_row
from mnet.studies.sweep import list_studies, load_study

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
        _, options, rest = read_options(parser, Options, arguments, positive=())
        refuse(rest, list(hints(Options)))
        root = Path(options.out)
        table = evaluate(root)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_csv(root / CLAIMS, table)
    show(table if options.all else headlines(table))
    print(", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(table).items()))
    from report import write  # the charts take a second to import

    for path in (root / CLAIMS, *write(root)):
        print(f"  {path}")
    return 0


def evaluate(root: Path) -> pd.DataFrame:
    """Every claim of claims.yaml against what a results folder holds."""
    return claims_table(
        load_claims(HERE / "claims.yaml"),
        runs=load(root),
        planned=pd.DataFrame(planned()),
        latencies={study: timed(root, study) for study in studies_with(root, CLAIMS_FILE)},
    )


def planned() -> Iterator[dict[str, object]]:
    """Every cell that a study has under some profile, and the command that trains it."""
    for profile in PROFILES:
        for name in list_studies(SWEEPS):
            command = f"make ablate-{name}" + ("" if profile == PROFILES[0] else f" PROFILE={profile}")
            for cell, trial in load_study(sweep_file(name), overrides(name, profile, 1, {})).trials:
                known = {"epochs": trial.full_recipe().epochs, "resolution": trial.data().resolution}
                yield {**run_row(name, cell.name, trial, known), "command": command}


def timed(root: Path, study: str) -> pd.DataFrame:
    """The latency claims of a study, with the machine, and what ran outside the fast kernels."""
    claims, rows = study_table(root, study, CLAIMS_FILE), study_table(root, study, LATENCY)
    claims["device"] = rows["device"].iloc[0]
    slow = rows.set_index(["variant", *(name for name in KEY if name in ("runtime", "threads"))])["undelegated_ops"]
    keys = zip(claims["variant"], claims["runtime"], claims["threads"], strict=True)
    claims["fell_back"] = [str(slow.get(key, "") or "") for key in keys]
    return claims.replace({"fell_back": {"nan": ""}})


def show(table: pd.DataFrame) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("claim", "paper", "ours", "95% interval", "n", "verdict", "why"):
        shown.add_column(name, justify="left" if name in ("claim", "verdict", "why") else "right", overflow="fold")
    for row in table.to_dict("records"):
        ratio = str(row["metric"]).startswith("latency")
        interval = "" if pd.isna(row["low"]) else f"[{number(row['low'], ratio)}, {number(row['high'], ratio)}]"
        numbers = [number(row["paper_value"], ratio), number(row["ours"], ratio), interval]
        style, n = STYLES[str(row["verdict"])], "" if pd.isna(row["n"]) else f"{row['n']:.0f}"
        shown.add_row(str(row["id"]), *numbers, n, f"[{style}]{row['verdict']}[/]", str(row["why"]))
    console.print(shown)


def number(value: float, ratio: bool) -> str:
    return "" if pd.isna(value) else f"{value:.3f}" if ratio else f"{value:+.2f}"


if __name__ == "__main__":
    sys.exit(main())

"""Write the report, one HTML file that opens without a network: `python experiments/report.py [study ...]`.

Without a study all of them, as OUT/report.html; with some, each as OUT/<study>/report.html. What this machine has not
measured is taken from the published tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from common.options import HERE, SWEEPS, read_own_options, sweep_file

from mnet.errors import ConfigError, unknown
from mnet.studies.claims.papers import published_detectors, published_points
from mnet.studies.claims.verdicts import RULE
from mnet.studies.report import reported, write_report
from mnet.studies.results.archive import find_table, read_claims
from mnet.studies.runs.store import REPORT
from mnet.studies.study import list_studies, load_study


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for."""

    out: str = "results"
    """Folder of results, and for the report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    try:
        names, options = read_arguments(sys.argv[1:] if arguments is None else arguments)
        for path in write(Path(options.out), names or None):
            print(path)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write(root: Path, names: Sequence[str] | None = None) -> Iterator[Path]:
    """Write the page of all studies, or one for each of these.

    Raises:
        ConfigError: There are no results, or a table is none of ours.
    """
    claims, points = read_claims(root), published(HERE / "claims.yaml")
    if names is None:
        write_report(root / REPORT, root, descriptions(root), claims=claims, published=points, rule=RULE)
        yield root / REPORT
    for name in names or ():
        own = None if claims is None else claims[claims["study"] == name]
        path = root / name / REPORT
        write_report(path, root, {name: description(root, name)}, claims=own, published=points, rule=RULE)
        yield path


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], Options]:
    """
    Raises:
        ConfigError: An unknown option or study.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", help="studies with results; none = all, on one page")
    given, options = read_own_options(parser, Options, arguments)
    there = reported(Path(options.out))
    for name in given.study:
        if name not in there:
            raise unknown(f"study with results in {options.out}", name, there)
    return given.study, options


def published(claims: Path) -> pd.DataFrame:
    """The papers' classifiers and detectors."""
    return pd.concat([published_points(claims), published_detectors(claims)], ignore_index=True)


def descriptions(root: Path) -> dict[str, str]:
    """Of every study with results: those with a sweep file first, in its order."""
    there = reported(root)
    known = [name for name in list_studies(SWEEPS) if name in there]
    return {name: description(root, name) for name in [*known, *(name for name in there if name not in known)]}


def description(root: Path, name: str) -> str:
    """What a sweep file says of its study, or that which a search has left; nothing of a study that has none."""
    path = sweep_file(name)
    if (found := find_table(root, name, f"{name}.yaml")) is not None:  # of a search
        return str(yaml.safe_load(found.read_text())["description"])
    return load_study(path).description if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())

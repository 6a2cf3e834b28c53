"""Publish results: `python experiments/publish.py`.

Copies tables and figures to results/published and writes the tables of README.md and docs/*.md from them. With
`--profile=longer` or `decide`, copies to its subfolder of that name, which claims also read. Results of
experiments/gpu.py in results/gpu go to results/published/gpu, and their latencies into the tables of the studies.
Without new results, only claims and documents are rewritten.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import pandas as pd
from common.evaluation import DECIDING, evaluate_claims
from common.options import Arguments, Parser
from common.program import program
from common.readme_tables import fill
from common.sweeps import HERE, PUBLISHED_RESULTS, SWEEPS
from common.timing import keep

from mnet.errors import ConfigError, leave_out
from mnet.files import write_atomic, write_csv
from mnet.studies.report.charts.claims import claims_forest
from mnet.studies.report.charts.export import save_svg
from mnet.studies.results.archive import list_searches
from mnet.studies.runs.store import (
    CANDIDATES,
    CHECK,
    CLAIMS,
    CLAIMS_DARK,
    CLAIMS_LIGHT,
    DEATHS,
    EFFECTS,
    FOUND_NETWORK,
    FRONTIER,
    GPU,
    GPU_RUNS,
    GPU_TABLES,
    INSIDE,
    LATENCY,
    LATENCY_CLAIMS,
    PLAN,
    PROXY,
    RUNS,
    SEARCH_SETTINGS,
    START_NETWORK,
    SUMMARY,
    TRACE,
    blocks_file,
)
from mnet.studies.study import list_studies

OF_SEARCHES = (TRACE, CANDIDATES, PROXY, CHECK, START_NETWORK, FOUND_NETWORK, SEARCH_SETTINGS)
HOME = PUBLISHED_RESULTS.relative_to(HERE.parent)
LARGEST = 300_000
"""Maximum bytes of a published file."""
DOCUMENTS = tuple(
    path
    for path in (HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")))
    if path.name != "scaling.md"  # its tables are measured, by experiments/scaling.py
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: str = "results"
    """Folder of the results to publish."""
    profile: Literal["quick", "longer", "decide"] = "quick"
    """The profile they were trained with."""
    into: str = str(PUBLISHED_RESULTS)
    """Folder to publish to."""


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 for bad input."""
    options = read_arguments(arguments).options
    into = Path(options.into)
    root = Path(options.out)
    if options.profile == DECIDING:  # runs of several machines are evidence together
        tables = copy_beside(root, into / DECIDING, ["run_id", "device"])
    else:
        tables = copy(root, into if options.profile == "quick" else into / options.profile)
    for path in chain(tables, copy_gpu(root / GPU, into)):
        print(f"  {path}")
    write_csv(into / CLAIMS, claims := evaluate_claims(into))
    save_svg(claims_forest(claims), into / CLAIMS_LIGHT)
    save_svg(claims_forest(claims), into / CLAIMS_DARK, dark=True)
    for path in DOCUMENTS:
        text = fill(path.read_text(), into)
        write_atomic(path, lambda stream, text=text: stream.write(text.encode()))  # type: ignore[misc]
    return 0


def copy(root: Path, target: Path) -> Iterator[Path]:
    """Copy the tables and figures of every study and search in `root`.

    Raises:
        ConfigError: A file is too large to be published.
    """
    tables = (PLAN, RUNS, SUMMARY, EFFECTS, LATENCY, FRONTIER, LATENCY_CLAIMS, INSIDE, DEATHS, *OF_SEARCHES)
    for study in [*list_studies(SWEEPS), *list_searches(root)]:
        more = [path for pattern in (blocks_file(), "*.png") for path in sorted((root / study).glob(pattern))]
        for path in [*(root / study / name for name in (*tables, f"{study}.yaml")), *more]:
            if not is_own(path):
                continue
            if path.stat().st_size > LARGEST:
                raise ConfigError(f"{path} has {path.stat().st_size} bytes, more than the allowed {LARGEST}")
            (target / study).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / study / path.name)
            if path.suffix != ".png":  # cells are named after the found network's file
                rename_home(
                    target / study / path.name, Path("results") / study / FOUND_NETWORK, HOME / study / FOUND_NETWORK
                )
            yield target / study / path.name


def copy_beside(root: Path, target: Path, keys: list[str]) -> Iterator[Path]:
    """As `copy`, but published runs stay, except those with the same `keys` as a new one."""
    before = {path: _as_text(path) for path in target.glob(f"*/{RUNS}")}
    yield from copy(root, target)
    for path, runs in before.items():
        new = _as_text(path)
        others = runs[~pd.MultiIndex.from_frame(runs[keys]).isin(pd.MultiIndex.from_frame(new[keys]))]
        if not others.empty:
            write_csv(path, pd.concat([new, others]))


def is_own(path: Path) -> bool:
    """Whether there is a file that can be published. A link is not: its target may be private."""
    if path.is_symlink():
        leave_out(path, "it is a link")
        return False
    return path.is_file()


def copy_gpu(root: Path, into: Path) -> Iterator[Path]:
    """Copy what was measured on a GPU: tables and the runs of claims into the folder `GPU`, latencies into the tables
    of the studies. Runs that are already there, and rows of other runtimes and devices, stay.

    Raises:
        ConfigError: A file is too large to be published.
    """
    for name in GPU_TABLES:
        if is_own(root / name):
            (into / GPU).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, into / GPU / name)
            yield into / GPU / name
    yield from copy_beside(root / GPU_RUNS, into / GPU, ["run_id"])
    for study in list_studies(SWEEPS):
        if not is_own(root / study / LATENCY):
            continue
        claims = root / study / LATENCY_CLAIMS
        keep(into / study, _as_text(root / study / LATENCY), _as_text(claims) if claims.is_file() else pd.DataFrame())
        yield into / study / LATENCY


def _as_text(path: Path) -> pd.DataFrame:
    """Read a table as text, so that its numbers stay as written."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def rename_home(path: Path, before: Path, after: Path) -> None:
    """Replace the path of a network in a file by the path it is published under."""
    content = path.read_text()
    if str(before) in content:
        write_atomic(path, lambda stream: stream.write(content.replace(str(before), str(after)).encode()))


if __name__ == "__main__":
    sys.exit(main())

"""Time a study's networks side by side: `python experiments/latency.py activation --runtime=executorch,litert`.

Nothing is trained. With `--profile=quick` the networks are those that `make ablate-<study>` trained, and their
accuracies are joined to the latencies. Exported programs and earlier measurements are kept.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from common.exporting import export_all
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.sweeps import CLAIMS_FILE, STUDIES_HELP, load_sweep
from common.terminal import print_rows, print_table
from common.timing import PROFILE, Plan, Precision, keep, latency_studies, time_blocks, time_study

from mnet.errors import ConfigError, counted, unknown
from mnet.files import write_csv
from mnet.latency.comparison import Measurement
from mnet.latency.machine import check_threads
from mnet.latency.runtimes import GPU_RUNTIMES, RUNTIMES, Runtime, make_runtime
from mnet.studies.claims.claims import load_claims
from mnet.studies.claims.views import timed_claims_table
from mnet.studies.latency.frontier import frontier_table
from mnet.studies.latency.subjects import list_subjects
from mnet.studies.latency.tables import claims_table, latency_table, merge_rows
from mnet.studies.plan import LOOKS
from mnet.studies.report.charts.export import save_png
from mnet.studies.report.charts.latency import frontier_chart, latency_chart
from mnet.studies.results import views
from mnet.studies.results.tables import runs_table, summary_table
from mnet.studies.runs.store import FRONTIER, FRONTIER_CHART, LATENCY, LATENCY_CHART


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options other than the settings of a network."""

    profile: str = PROFILE
    """An entry of experiments/profiles.yaml; for any except latency, its trained networks are timed, and their
    accuracies joined."""
    runtime: str = "executorch"
    """Names of mnet.latency.RUNTIMES, comma-separated, or all."""
    threads: int = 1
    """Threads of a network, each pinned to its own core."""
    batch: str = "1"
    """Batch sizes, comma-separated."""
    half_width: float = 0.01
    """Stop when the half width of every interval is below this share of its ratio."""
    budget: float = 15.0
    """Stop after this many seconds of rounds for each study, runtime and batch."""
    out: str = "results"
    """Folder for results and exported programs."""
    workers: int | None = None
    """Networks exported in parallel; default: one per core."""
    blocks: bool = False
    """Also time every block: of the first network, with its multiply-adds; of the others, against the first."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "half_width", "budget", "workers")
        check_threads(self.threads)

    def runtimes(self) -> list[Runtime]:
        """
        Raises:
            ConfigError: A runtime is unknown or not installed.
        """
        names = list(RUNTIMES) if self.runtime == "all" else self.runtime.split(",")
        for name in names:
            if name not in RUNTIMES:
                raise unknown("runtime", name, RUNTIMES)
        if self.runtime == "all" and not torch.cuda.is_available():
            names = [name for name in names if name not in GPU_RUNTIMES]
        return [make_runtime(name, threads=self.threads, folder=Path(self.out) / "exported") for name in names]

    def batches(self) -> list[int]:
        """
        Raises:
            ConfigError: A batch is not a whole number above 0.
        """
        for value in self.batch.split(","):
            if not value.isdigit() or int(value) < 1:
                raise ConfigError(f"batch must be whole numbers above 0, not {value!r}")
        return [int(value) for value in self.batch.split(",")]


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__, trial=True)
    parser.add_argument("study", nargs="+", help=STUDIES_HELP)
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all timed, 1 some networks failed, 2 bad input, 130 interrupted."""
    started = time.monotonic()
    given = read_arguments(arguments)
    options, root = given.options, Path(given.options.out)
    runtimes, batches = options.runtimes(), options.batches()
    names = latency_studies() if given.values.study == ["all"] else given.values.study
    plans = [load_plan(name, options, given.settings) for name in names]
    # All profiles except latency train. Missing accuracies are reported before anything is timed.
    summaries = {} if options.profile == PROFILE else {plan.study.name: read_summary(plan, root) for plan in plans}
    networks = [subject for plan in plans for subject in plan.subjects.values()]
    failures = export_all(networks, runtimes, batches, options.workers)
    precision = Precision(options.threads, options.half_width, options.budget)
    claims, failed = [], False
    for plan in plans:
        tables = []
        for runtime in runtimes:
            timed = plan.on(runtime)
            for batch in batches:
                measurement = time_study(timed, runtime, batch, failures, precision)
                show(timed, runtime, batch, measurement)
                tables.append(latency_table(plan.study, measurement, timed.subjects, runtime, batch))
                claims.append(claims_table(timed.pairs, measurement, runtime.name, options.threads, batch))
                if options.profile == PROFILE:
                    keep(root / plan.study.name, tables[-1], claims[-1])
                keep_rounds(root / plan.study.name, measurement, runtime.name, batch, options.threads)
                failed |= bool(measurement.failed)
        finish(plan, root / plan.study.name, pd.concat(tables), summaries.get(plan.study.name), options.threads)
        for runtime in runtimes if options.blocks else ():
            for result in time_blocks(plan, root / plan.study.name, runtime, precision):
                if isinstance(result, Path):
                    print(f"  {result}")
                else:
                    show_blocks(result, next(iter(plan.subjects)), runtime.name)
    show_claims(pd.concat(claims))
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def load_plan(name: str, options: Options, settings: Mapping[str, object]) -> Plan:
    """A study's cells, and the networks of its latency claims."""
    seeds = None if options.profile == PROFILE else LOOKS[-1]  # all seeds that were trained
    study = load_sweep(name, options.profile, seeds, settings)
    claims = load_claims(CLAIMS_FILE) if options.profile == PROFILE else ()
    return Plan(study, *list_subjects(study, claims, Path(options.out)))


def read_summary(plan: Plan, root: Path) -> pd.DataFrame:
    """The accuracies of a study.

    Raises:
        ConfigError: There are none.
    """
    runs = runs_table(plan.study, root)
    if runs.empty:
        raise ConfigError(f"no run of {plan.study.name} is finished in {root}: make ablate-{plan.study.name} first")
    return summary_table(plan.study, runs, root)


def keep_rounds(folder: Path, measurement: Measurement, runtime: str, batch: int, threads: int) -> None:
    """Write the seconds per call of every network in every round, from which the ratios are computed."""
    if measurement.paired is not None:
        path = folder / "latency-rounds" / f"{runtime}-batch{batch}-threads{threads}.csv"
        write_csv(path, pd.DataFrame(dict(measurement.paired.times)))


def finish(plan: Plan, folder: Path, table: pd.DataFrame, summary: pd.DataFrame | None, threads: int) -> None:
    """Draw the latencies or, if the cells were trained, accuracy against latency."""
    name = plan.study.name
    if summary is not None:
        joined = frontier_table(summary, table)
        merge_rows(folder / FRONTIER, joined, ("cell", "runtime", "threads", "batch", "device"))
        title = f"{name}: accuracy and latency, {counted(threads, 'thread')}"
        save_png(frontier_chart(joined, title), folder / FRONTIER_CHART)
        print(f"  {folder / FRONTIER}\n  {folder / FRONTIER_CHART}")
        return
    batch = int(table["batch"].min())
    smallest = table[table["batch"] == batch]
    title = f"{name}: latency at batch {batch}, {counted(threads, 'thread')}, {smallest['device'].iloc[0]}"
    if "ratio" in smallest and (chart := latency_chart(smallest, title)) is not None:
        save_png(chart, folder / LATENCY_CHART)
    print(f"  {folder / LATENCY}\n  {folder / LATENCY_CHART}")


def show(plan: Plan, runtime: Runtime, batch: int, measurement: Measurement) -> None:
    """Print the table of one measurement, and what disturbed it."""
    title = f"{plan.study.name}: {runtime.name}"
    for ready in measurement.ready.values():
        ran = ready.program.info
        title = f"{plan.study.name}: {ran.runtime} {ran.version} ({ran.kernels})"
        title += f", {counted(ran.threads, 'thread')}, batch {batch}"
    rows = measurement.table.replace({"file_bytes": {0: math.nan}})  # nothing was exported
    columns = ("variant", "ms", "ratio", "95% interval", "rounds", "stopped", "not delegated", "MB")
    print_table(views.latency_table(rows).select(*columns), title)
    for note in measurement.notes:
        print(f"  {note}")


def show_blocks(deltas: pd.DataFrame, baseline: str, runtime: str) -> None:
    """Print a row per block and a column per network: microseconds more than the baseline."""
    columns = dict.fromkeys(map(str, dict.fromkeys(deltas["variant"])), True)
    rows = []
    for block, group in deltas.groupby("block", sort=False):
        cells = [f"{row['us']:+.0f}" if row["us_low"] > 0 or row["us_high"] < 0 else "." for _, row in group.iterrows()]
        rows.append([str(block), *cells])
    title = f"microseconds more than {baseline}, {runtime}; . = 0 is inside that block's 95% interval"
    print_rows(title, {"block": False} | columns, rows)


def show_claims(claims: pd.DataFrame) -> None:
    """Print the papers' latency claims next to what was measured."""
    if claims.empty:
        return
    rows = claims.sort_values(["id", "runtime", "batch"], kind="stable")
    print_table(timed_claims_table(rows), "the papers' latency claims, in direction, on this machine")


if __name__ == "__main__":
    sys.exit(main())

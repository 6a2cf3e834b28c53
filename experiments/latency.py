"""Time a study's networks side by side: `python experiments/latency.py activation --runtime=executorch,litert`.

Nothing is trained; with `--profile=quick` the networks are those that `make ablate-<study>` trained, and the table of
accuracies is joined to that of latencies. Exported programs, and what was measured before, are kept.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pandas as pd
import torch
import yaml
from common.options import HERE, SWEEPS, add_trial_settings, overrides, read_options, refuse, sweep_file, trial_settings
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mnet.errors import ConfigError, unknown
from mnet.files import write_csv
from mnet.latency.comparison import COLUMNS, Measurement, Ready, measure, prepare
from mnet.latency.machine import check_threads, machine_facts, pinned
from mnet.latency.plots import plot_frontier, plot_latency
from mnet.latency.runtimes import RUNTIMES, ExportError, Ran, Runtime, make_runtime
from mnet.models.network import MobileNet
from mnet.settings import hints
from mnet.studies.claims.claims import load_claims
from mnet.studies.engines.local import default_workers
from mnet.studies.latency.frontier import frontier_table
from mnet.studies.latency.tables import (
    KEY,
    Pair,
    Subject,
    build,
    claims_table,
    identity,
    latency_table,
    merge,
    subjects,
)
from mnet.studies.options import OPTIONS
from mnet.studies.results.tables import runs_table, summary_table
from mnet.studies.runs.store import FRONTIER, LATENCY, LATENCY_CLAIMS
from mnet.studies.study import Study, load_study

PROFILE = "latency"
"""Of experiments/profiles.yaml: the papers' networks at 224 px. The studies it names are those that `all` means."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for, beside the settings of its networks."""

    profile: str = PROFILE
    """An entry of experiments/profiles.yaml; another than latency times what that one trains, and joins accuracies."""
    runtime: str = "executorch"
    """Of mnet.latency.RUNTIMES; several with commas, or all."""
    threads: int = 1
    """Pinned cores a network may use."""
    batch: str = "1"
    """Images at a time; several with commas."""
    half_width: float = 0.01
    """Stop once no interval reaches further than this share from its ratio,"""
    budget: float = 15.0
    """or after so many seconds of rounds for each study, runtime and batch."""
    out: str = "results"
    """Folder for results and exported programs."""
    workers: int | None = None
    """Networks exported side by side; default: one a core."""
    blocks: bool = False
    """Also time every block, of the first variant beside its multiply-adds, of the others beside the first's."""


@dataclass(frozen=True)
class Plan:
    """A study and what is timed for it."""

    study: Study
    subjects: Mapping[str, Subject]
    pairs: Sequence[Pair]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all timed, 1 some variants failed, 2 bad input, 130 interrupted."""
    started = time.monotonic()
    try:
        names, options, runtimes, batches, settings = read_arguments(sys.argv[1:] if arguments is None else arguments)
        plans = [load(name, options, settings) for name in names]
        root = Path(options.out)
        machines = [make_runtime(name, threads=options.threads, folder=root / "exported") for name in runtimes]
        # Only a study's own profile was trained; without accuracies there is nothing to join, which is said at once.
        summaries = {} if options.profile == PROFILE else {plan.study.name: trained(plan, root) for plan in plans}
        failures = export(plans, machines, batches, options)
        claims, failed = [], False
        for plan in plans:
            tables = []
            for runtime in machines:
                for batch in batches:
                    found = time_study(plan, runtime, batch, failures, options)
                    tables.append(latency_table(plan.study, found, plan.subjects))
                    claims.append(claims_table(plan.pairs, found, runtime.name, options.threads))
                    keep(plan, root, tables[-1], claims[-1], options)
                    keep_rounds(plan, root, found, f"{runtime.name}-batch{batch}-threads{options.threads}")
                    failed |= bool(found.failed)
            closing(plan, root, pd.concat(tables), summaries.get(plan.study.name), options)
            if options.blocks:
                blocks(plan, root, machines, options)
        show_claims(pd.concat(claims))
        print(f"{time.monotonic() - started:.0f} s")
        return 1 if failed else 0
    except (ConfigError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; what was measured is kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept, and so are exported programs")
        return 130


def read_arguments(
    arguments: Sequence[str],
) -> tuple[list[str], Options, list[str], list[int], dict[str, str]]:
    """The studies, this program's options, runtimes, batches, and the settings of the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", help="files of experiments/sweeps, without .yaml; or paths; or all")
    add_trial_settings(parser)
    positive = ("threads", "half_width", "budget", "workers")
    given, options, rest = read_options(parser, Options, arguments, positive=positive)
    refuse(rest, [*OPTIONS, *hints(Options)])
    check_threads(options.threads)
    runtimes = list(RUNTIMES) if options.runtime == "all" else options.runtime.split(",")
    for name in runtimes:
        if name not in RUNTIMES:
            raise unknown("runtime", name, RUNTIMES)
    if options.runtime == "all" and not torch.cuda.is_available():
        runtimes.remove("cuda-graphs")
    batches = []
    for value in options.batch.split(","):
        if not value.isdigit() or int(value) < 1:
            raise ConfigError(f"batch must be whole numbers above 0, not {value!r}")
        batches.append(int(value))
    names = latency_studies() if given.study == ["all"] else given.study
    return names, options, runtimes, batches, trial_settings(given)


def latency_studies() -> list[str]:
    profile = yaml.safe_load((HERE / "profiles.yaml").read_text())[PROFILE]
    return [name for name in profile if name != "all" and (SWEEPS / f"{name}.yaml").exists()]


def load(name: str, options: Options, settings: Mapping[str, str]) -> Plan:
    """The study with profile and command line laid over its file, and its claims' networks beside its cells."""
    path = sweep_file(name)
    study = load_study(path, overrides(path.stem, options.profile, None, settings))
    claims = load_claims(HERE / "claims.yaml") if options.profile == PROFILE else ()
    return Plan(study, *subjects(study, claims))


def trained(plan: Plan, root: Path) -> pd.DataFrame:
    """The accuracies of a study.

    Raises:
        ConfigError: There are none.
    """
    runs = runs_table(plan.study, root)
    if runs.empty:
        raise ConfigError(f"no run of {plan.study.name} is finished in {root}: make ablate-{plan.study.name} first")
    return summary_table(plan.study, runs, root)


Key = tuple[str, int, Hashable]
"""A runtime's name, a batch, and the `identity` of a subject."""


def export(
    plans: Sequence[Plan], machines: Sequence[Runtime], batches: Sequence[int], options: Options
) -> dict[Key, str]:
    """Export what is not exported yet, side by side and before anything is timed; returns what failed and why."""
    todo: dict[Key, Subject] = {
        (machine.name, batch, identity(subject)): subject
        for machine in machines
        if machine.name not in ("eager", "compile", "cuda-graphs")
        for plan in plans
        for batch in batches
        for subject in plan.subjects.values()
    }
    failures: dict[Key, str] = {}
    if not todo:
        return failures
    workers, console = min(options.workers or default_workers(), len(todo)), Console()
    bar = Progress(TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as pool, bar:
        task, started = bar.add_task("", total=len(todo)), time.monotonic()
        jobs = {
            pool.submit(export_one, *key[:2], subject, options.threads, machines[0].folder): key
            for key, subject in todo.items()
        }
        for done, job in enumerate(as_completed(jobs), 1):
            if (reason := job.result()) is not None:
                failures[jobs[job]] = reason
            bar.update(task, completed=done)
            left = (len(todo) - done) * (time.monotonic() - started) / done
            if not console.is_terminal and done % 5 == 0:
                console.print(f"[{done}/{len(todo)}] exported; ETA {left:.0f} s", markup=False, highlight=False)
    return failures


def end_with_parent() -> None:
    """In a worker: a program that is killed does not leave it working."""

    def watch() -> None:
        if (parent := parent_process()) is not None:
            wait([parent.sentinel])
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def export_one(runtime: str, batch: int, subject: Subject, threads: int, folder: Path) -> str | None:
    """In a process of its own: its memory and its heap are not those that are timed. Returns why it failed."""
    torch.set_num_threads(1)  # sums in one order, so that the network is the same one when it is timed
    try:
        prepare(make_runtime(runtime, threads=threads, folder=folder), build(subject), subject.resolution, batch=batch)
    except ExportError as error:
        return str(error)
    finally:
        gc.collect()  # graphs are full of cycles, and large
    return None


def time_study(plan: Plan, runtime: Runtime, batch: int, failures: Mapping[Key, str], options: Options) -> Measurement:
    """All variants of a study on one runtime, in the same rounds."""
    ready: dict[str, Ready] = {}
    failed: dict[str, str] = {}
    console = Console()
    with pinned(options.threads), progress(f"{plan.study.name} on {runtime.name}: preparing") as bar:
        torch.set_num_threads(1)
        for name, subject in bar.track(plan.subjects.items(), total=len(plan.subjects), description=""):
            reason = failures.get((runtime.name, batch, identity(subject)))
            try:
                if reason is not None:
                    raise ExportError(reason)
                ready[name] = prepare(runtime, build(subject), subject.resolution, batch=batch)
            except ExportError as error:
                failed[name] = str(error)
                console.print(f"{name}: {error}", markup=False, highlight=False, soft_wrap=True)
    title = f"{plan.study.name} on {runtime.name}"
    with progress("") as bar:
        begun, task = time.monotonic(), bar.add_task(title, total=options.budget)

        def told(rounds: int, widest: float) -> None:
            """The half width falls with the root of the rounds: the budget, or sooner."""
            spent = time.monotonic() - begun
            needed = spent * (widest / options.half_width) ** 2
            bar.update(task, completed=spent, total=max(spent, min(options.budget, needed)))
            bar.update(task, description=f"{title}: {rounds} rounds, +-{widest:.1%}")

        found = measure(
            ready,
            next(iter(plan.subjects)),
            failed,
            threads=options.threads,
            half_width=options.half_width,
            budget_s=options.budget,
            told=told,
        )
    show(plan, runtime, batch, found, console)
    return found


def progress(title: str) -> Progress:
    """A bar with what is left, gone at its end."""
    told = TextColumn(f"{title} {{task.description}}", markup=False)
    return Progress(told, BarColumn(), TimeRemainingColumn(), transient=True)


def keep(plan: Plan, root: Path, table: pd.DataFrame, claims: pd.DataFrame, options: Options) -> None:
    """Lay what was measured over the files of the study; rows of other runtimes and settings stay."""
    if options.profile != PROFILE:
        return
    folder = root / plan.study.name
    merge(folder / LATENCY, table, ("variant", *KEY))
    if not claims.empty:
        merge(folder / LATENCY_CLAIMS, claims, ("id", "runtime", "threads"))


def keep_rounds(plan: Plan, root: Path, found: Measurement, name: str) -> None:
    """The seconds a call of every variant in every round, from which each ratio follows."""
    if found.race is not None:
        write_csv(root / plan.study.name / "latency-rounds" / f"{name}.csv", pd.DataFrame(dict(found.race.times)))


def closing(plan: Plan, root: Path, table: pd.DataFrame, summary: pd.DataFrame | None, options: Options) -> None:
    """The figure; and, where the cells were trained, accuracy beside latency."""
    folder, study = root / plan.study.name, plan.study
    if summary is not None:
        joined = frontier_table(summary, table)
        merge(folder / FRONTIER, joined, ("cell", "runtime", "threads", "batch", "device"))
        plot_frontier(joined, folder / "frontier.png", f"{study.name}: accuracy and latency, {threads_of(options)}")
        print(f"  {folder / FRONTIER}\n  {folder / 'frontier.png'}")
        return
    ran = table[table["batch"] == table["batch"].min()] if "batch" in table else table
    if "ratio" in ran and ran["ratio"].notna().any():
        device = ran["device"].iloc[0]
        plot_latency(ran, folder / "latency.png", f"{study.name}: latency at batch 1, {threads_of(options)}, {device}")
    print(f"  {folder / LATENCY}\n  {folder / 'latency.png'}")


def blocks(plan: Plan, root: Path, machines: Sequence[Runtime], options: Options) -> None:
    """Every block of the baseline on each runtime; and what the same block takes in variants with as many."""
    from mnet.latency.blocks import block_latency, compare_blocks, plot_blocks

    name, first = next(iter(plan.subjects.items()))
    floats = {one: subject for one, subject in plan.subjects.items() if not subject.trial.quantized}
    if name not in floats:
        raise ConfigError(f"the blocks of {name} cannot be timed one by one: it is an int8 graph")
    nets = {one: cast(MobileNet, build(subject)) for one, subject in floats.items()}
    count = len(nets[name].network.blocks)
    alike = {
        one: net
        for one, net in nets.items()
        if len(net.network.blocks) == count and floats[one].resolution == first.resolution
    }
    size, folder = first.resolution, root / plan.study.name
    for machine in machines:
        ran = {"runtime": machine.name, "threads": options.threads, **machine_facts()}
        settings = {"threads": options.threads, "budget_s": options.budget}
        path = folder / f"blocks-{machine.name}.csv"
        frame = block_latency(nets[name], runtime=machine.name, resolution=size, **settings)  # type: ignore[arg-type]
        write_csv(path, frame.assign(variant=name, **ran))  # type: ignore[arg-type]
        plot_blocks(frame, path.with_suffix(".png"), f"{plan.study.name}, {name}, by block: {machine.name}")
        print(f"  {path}\n  {path.with_suffix('.png')}")
        if len(alike) > 1:
            deltas = compare_blocks(alike, name, runtime=machine.name, resolution=size, **settings)  # type: ignore[arg-type]
            write_csv(path := folder / f"block-deltas-{machine.name}.csv", deltas.assign(**ran))  # type: ignore[arg-type]
            show_blocks(deltas, name, machine.name)
            print(f"  {path}")


def show_blocks(deltas: pd.DataFrame, baseline: str, runtime: str) -> None:
    """A row a block, a column a variant: microseconds more than the baseline's, where the interval leaves out 0."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"microseconds more than {baseline}, {runtime}; . = 0 within the 95% interval of that block",
    )
    table.add_column("block")
    variants = list(dict.fromkeys(deltas["variant"]))
    for variant in variants:
        table.add_column(Text(variant), justify="right", overflow="fold")
    for block, rows in deltas.groupby("block", sort=False):
        found = {row["variant"]: row for row in rows.to_dict("records")}
        cells = [f"{one['us']:+.0f}" if one["us_low"] > 0 or one["us_high"] < 0 else "." for one in found.values()]
        table.add_row(str(block), *cells)
    console.print(table)


def show(plan: Plan, runtime: Runtime, batch: int, found: Measurement, console: Console) -> None:
    """The table of one measurement, and what disturbed it."""
    if not console.is_terminal:
        console = Console(width=150)
    table = Table(box=box.SIMPLE_HEAD, title=title_of(plan, runtime, batch, found))
    for column in COLUMNS:
        right = column not in ("variant", "stopped")
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for column in ("undelegated", "MB"):
        table.add_column(column, justify="right", overflow="fold")
    for row in found.table.to_dict("records"):
        numbers = (f"{row[name]:.3f}" if pd.notna(row[name]) else "" for name in COLUMNS[1:5])
        size = row.get("file_bytes")
        told = str(row.get("undelegated_ops") or "") if pd.notna(row.get("undelegated_ops")) else ""
        cells = (str(row["variant"]), *numbers, str(row["rounds"]), str(row["stopped"]), told)
        table.add_row(*map(Text, cells), f"{size / 1e6:.1f}" if size and pd.notna(size) else "")
    console.print(table)
    for note in found.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def title_of(plan: Plan, runtime: Runtime, batch: int, found: Measurement) -> str:
    for one in found.ready.values():
        ran = one.program.ran
        return f"{plan.study.name}: {ran.runtime} {ran.version} ({ran.kernels}), {threads_of(ran)}, batch {batch}"
    return f"{plan.study.name}: {runtime.name}"


def threads_of(ran: Options | Ran) -> str:
    return "1 thread" if ran.threads == 1 else f"{ran.threads} threads"


def show_claims(claims: pd.DataFrame) -> None:
    """The papers' latency claims beside what was measured."""
    if claims.empty:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    table = Table(box=box.SIMPLE_HEAD, title="the papers' latency claims, in direction, on this machine")
    for column in ("claim", "statement"):
        table.add_column(column, overflow="fold")
    for column in ("runtime", "paper", "ours", "95% interval", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in claims.sort_values(["id", "runtime"], kind="stable").to_dict("records"):
        table.add_row(*map(Text, claim_cells(row)))
    console.print(table)


def claim_cells(row: Mapping[Hashable, Any]) -> Iterator[str]:
    def number(name: str) -> str:
        value = row[name]
        return f"{value:.3f}" if isinstance(value, float) and pd.notna(value) else ""

    yield from (str(row["id"]), str(row["statement"]), str(row["runtime"]), number("paper_value"), number("ours"))
    yield f"[{number('low')}, {number('high')}]" if number("ours") else ""
    yield str(row["verdict"])


if __name__ == "__main__":
    sys.exit(main())

"""Times the networks of a study side by side, as a whole and block by block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from common.exporting import Key, key_of
from common.sweeps import PROFILES_FILE, SWEEPS
from common.terminal import print_line
from mnet.errors import ConfigError
from mnet.files import read_yaml, write_csv
from mnet.latency.comparison import Measurement, measure
from mnet.latency.machine import machine_facts, pinned
from mnet.latency.prepare import PreparedVariant, prepare
from mnet.latency.runtimes import ExportError, Runtime
from mnet.models.network import MobileNet
from mnet.studies.latency.subjects import ClaimPair, Subject, build_module
from mnet.studies.latency.tables import CLAIM_KEY, KEY, merge_rows
from mnet.studies.runs.store import LATENCY, LATENCY_CLAIMS, blocks_file
from mnet.studies.study import Study

PROFILE = "latency"
"""The profile of experiments/profiles.yaml with the papers' networks at 224 px. `all` means the studies it names."""


@dataclass(frozen=True)
class Plan:
    """A study, the networks that are timed for it, and the claims that are judged by them."""

    study: Study
    subjects: Mapping[str, Subject]
    """By name, the baseline first."""
    pairs: Sequence[ClaimPair]

    def on(self, runtime: Runtime) -> Plan:
        """The plan; if int8 is simulated, without the int8 networks that only claims name: minutes, for no speed-up."""
        if not runtime.simulates:
            return self
        cells = {cell.name for cell in self.study.cells}
        subjects = {
            name: subject for name, subject in self.subjects.items() if name in cells or not subject.trial.quantized
        }
        pairs = [pair for pair in self.pairs if {pair.baseline, pair.variant} <= subjects.keys()]
        return replace(self, subjects=subjects, pairs=pairs)


@dataclass(frozen=True)
class Precision:
    """How long to measure."""

    threads: int
    half_width: float
    """Stop when the half width of every interval is below this share of its ratio."""
    budget_s: float
    """Stop after this many seconds of rounds."""


def time_study(
    plan: Plan, runtime: Runtime, batch: int, failures: Mapping[Key, str], precision: Precision
) -> Measurement:
    """Time all networks of a plan on one runtime, in the same rounds.

    Args:
        plan: The networks.
        runtime: The runtime.
        batch: Batch size.
        failures: Failed exports, from `export_all`.
        precision: When to stop.
    """
    title = f"{plan.study.name} on {runtime.name}"
    ready: dict[str, PreparedVariant] = {}
    failed: dict[str, str] = {}
    console = Console()
    with pinned(precision.threads), _progress(f"{title}: preparing") as bar:
        torch.set_num_threads(1)
        for name, subject in bar.track(plan.subjects.items(), total=len(plan.subjects), description=""):
            try:
                if (reason := failures.get(key_of(runtime.name, batch, subject))) is not None:
                    raise ExportError(reason)
                ready[name] = prepare(runtime, build_module(subject), subject.resolution, batch=batch)
            except ExportError as error:
                failed[name] = str(error)
                print_line(console, f"{name}: {error}")
    with _progress("") as bar:
        begun, task = time.monotonic(), bar.add_task(title, total=precision.budget_s)

        def report_progress(rounds: int, widest: float) -> None:
            """Update the bar. The half width falls with the root of the rounds, so the budget may not be needed."""
            spent = time.monotonic() - begun
            needed = spent * (widest / precision.half_width) ** 2
            bar.update(task, completed=spent, total=max(spent, min(precision.budget_s, needed)))
            bar.update(task, description=f"{title}: {rounds} rounds, +-{widest:.1%}")

        return measure(
            ready,
            next(iter(plan.subjects)),
            failed,
            threads=precision.threads,
            half_width=precision.half_width,
            budget_s=precision.budget_s,
            report_progress=report_progress,
        )


def latency_studies() -> list[str]:
    """The studies that `PROFILE` names."""
    profile = read_yaml(PROFILES_FILE.read_text())[PROFILE]
    return [name for name in profile if name != "all" and (SWEEPS / f"{name}.yaml").exists()]


def keep(folder: Path, table: pd.DataFrame, claims: pd.DataFrame) -> None:
    """Write what was measured, in place of rows of the same networks and conditions; all other rows stay.

    Args:
        folder: The folder of the study.
        table: Rows of `latency_table`.
        claims: Rows of `claims_table`; without a column `device`, they get that of `table`.
    """
    merge_rows(folder / LATENCY, table, ("variant", *KEY))
    if not claims.empty:
        claims = claims if "device" in claims else claims.assign(device=table["device"].iloc[0])
        merge_rows(folder / LATENCY_CLAIMS, claims, CLAIM_KEY, {"batch": "1", "device": ""})


def _progress(title: str) -> Progress:
    """A progress bar that disappears at its end."""
    text = TextColumn(f"{title} {{task.description}}", markup=False)
    return Progress(text, BarColumn(), TimeRemainingColumn(), transient=True)


def time_blocks(plan: Plan, folder: Path, runtime: Runtime, precision: Precision) -> Iterator[Path | pd.DataFrame]:
    """Time every block of the baseline, and how the same blocks differ in networks with as many.

    Yields:
        Each file as it is written, and the differences from `compare_blocks`.

    Raises:
        ConfigError: The baseline is an int8 graph, whose blocks cannot be timed one by one.
    """
    from mnet.latency.blocks import block_latency, compare_blocks
    from mnet.studies.report.charts.export import save_png
    from mnet.studies.report.charts.latency import blocks_chart

    baseline, first = next(iter(plan.subjects.items()))
    if first.trial.quantized:
        raise ConfigError(f"the blocks of {baseline} cannot be timed one by one: it is an int8 graph")
    nets = {
        name: cast(MobileNet, build_module(subject))
        for name, subject in plan.subjects.items()
        if not subject.trial.quantized and subject.resolution == first.resolution
    }
    count = len(nets[baseline].network.blocks)
    same_length = {name: net for name, net in nets.items() if len(net.network.blocks) == count}
    facts = {"runtime": runtime.name, "threads": precision.threads, **machine_facts(runtime.device)}
    path = folder / blocks_file(runtime.name)
    table = block_latency(
        nets[baseline],
        runtime=runtime.name,
        resolution=first.resolution,
        threads=precision.threads,
        budget_s=precision.budget_s,
    )
    write_csv(path, table.assign(variant=baseline, **facts))  # type: ignore[arg-type]
    save_png(blocks_chart(table, f"{plan.study.name}, {baseline}, by block: {runtime.name}"), path.with_suffix(".png"))
    yield path
    yield path.with_suffix(".png")
    if len(same_length) > 1:
        deltas = compare_blocks(
            same_length,
            baseline,
            runtime=runtime.name,
            resolution=first.resolution,
            threads=precision.threads,
            budget_s=precision.budget_s,
        )
        path = folder / f"block-deltas-{runtime.name}.csv"
        write_csv(path, deltas.assign(**facts))  # type: ignore[arg-type]
        yield deltas
        yield path

"""Networks side by side on one runtime, timed in paired rounds on pinned threads."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import pandas as pd
from torch import Tensor, nn

from mnet.errors import ConfigError, unknown
from mnet.latency.machine import busiest_program, check_threads, pinned
from mnet.latency.paired import PairedTimes, time_in_rounds
from mnet.latency.prepare import PreparedVariant, prepare
from mnet.latency.runtimes import ExportError, Program, Run, make_runtime
from mnet.latency.timing import Sample, calls_for, timer_for

EXPORTED = Path("results/exported")
COLUMNS = ("variant", "median_ms", "ratio", "low", "high", "rounds", "stopped")

WARM_CALLS, GROUPS, GROUP_S = 3, 11, 0.0002
"""A sample is the median over `GROUPS` groups of calls, after `WARM_CALLS` warm-up calls. A group lasts at least
`GROUP_S` seconds, some thousand times the resolution of the clock. Networks take longer, so a group is one call and the
median ignores calls hit by an interrupt; groups of several calls would favour the variant with the smaller groups."""
ROUNDS, WARMUP = 15, 10
"""Minimum number of rounds, and maximum number of warm-up rounds, which are not counted."""

BUSY, DRIFT, STRAYS = 0.25, 0.05, 0.1
"""Thresholds for notes: cores kept busy by other programs, change of the baseline, share of outliers."""

logger = logging.getLogger(__name__)


def compare(
    nets: Mapping[str, nn.Module],
    baseline: str,
    runtime: str = "eager",
    resolution: int | Mapping[str, int] = 224,
    threads: int = 1,
    half_width: float = 0.01,
    budget_s: float = 30,
    *,
    batch: int = 1,
    folder: Path = EXPORTED,
    seed: int = 0,
) -> pd.DataFrame:
    """Latencies of networks as ratios to one of them, measured in paired rounds on this machine.

    Args:
        nets: Variants by name: modules that take images (N, C, H, W), or results of `mnet.quantization.quantize`.
        baseline: One of them.
        runtime: One of `mnet.latency.RUNTIMES`.
        resolution: Height and width of the images, for all variants or by variant.
        threads: Threads per network, each on its own core.
        half_width: Stop when no 95% interval extends further from its ratio than this share of it.
        budget_s: Stop after this many seconds of rounds in any case, but not before `ROUNDS` rounds.
        batch: Images per call.
        folder: Where exported programs are kept.
        seed: Seed of the images and of the order within rounds.

    Returns:
        One row per variant: `variant, median_ms, ratio, low, high, rounds, stopped`. `stopped` is baseline, precise,
        budget, or the reason why there is no ratio. `attrs["notes"]` lists disturbances of the measurement, which are
        also logged; `attrs["table"]` has the columns of `Measurement.table`: operators, kernels, files, conditions.

    Raises:
        ConfigError: Unknown baseline or runtime, a variant without a resolution, a runtime that is not installed, a
            number out of range, or nothing to compare.
    """
    if baseline not in nets:
        raise unknown("baseline", baseline, nets)
    if len(nets) < 2:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    for name, value in (("half_width", half_width), ("budget_s", budget_s), ("batch", batch)):
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    check_threads(threads)
    engine = make_runtime(runtime, threads=threads, folder=Path(folder))
    sizes = dict.fromkeys(nets, resolution) if isinstance(resolution, int) else dict(resolution)
    for name in nets:
        if name not in sizes:
            raise ConfigError(f"no resolution for variant {name!r}")
    ready, failed = {}, {}
    with pinned(threads):
        for name, net in nets.items():
            try:
                ready[name] = prepare(engine, net, sizes[name], batch=batch, seed=seed)
            except ExportError as error:
                failed[name] = str(error)
    measurement = measure(ready, baseline, failed, threads=threads, half_width=half_width, budget_s=budget_s, seed=seed)
    for note in measurement.notes:
        logger.warning(note)
    table = measurement.table.reindex(columns=list(COLUMNS))
    table.attrs |= {"notes": measurement.notes, "table": measurement.table.to_dict("list")}
    return table


@dataclass(frozen=True)
class Measurement:
    """The times of variants, and the variants that failed."""

    variants: tuple[str, ...]
    ready: Mapping[str, PreparedVariant]
    baseline: str
    failed: Mapping[str, str]
    paired: PairedTimes | None
    """None if nothing was timed."""
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per variant, in the order given: `COLUMNS`, the program, its agreement with eager, the conditions."""
        return pd.DataFrame([self._row(name) for name in self.variants])

    def _row(self, name: str) -> dict[str, object]:
        row: dict[str, object] = {"variant": name, **dict.fromkeys(COLUMNS[1:5], math.nan), "rounds": 0}
        paired = self.paired
        if name in self.failed or paired is None:
            return {**row, "stopped": f"failed: {self.failed.get(name, 'nothing was timed')}"}
        row |= {"median_ms": paired.ms(name), "rounds": len(paired.times[name])}
        if self.baseline in self.failed:
            row["stopped"] = f"no ratio: the baseline {self.baseline} failed"
        elif name == self.baseline:
            row |= {"ratio": 1.0, "low": 1.0, "high": 1.0, "stopped": "baseline"}
        else:
            ratio = paired.ratio(name, self.baseline)
            row |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
            row["stopped"] = "precise" if ratio.precise else "budget"
        return {
            **row,
            **self.ready[name].facts,
            **self.ready[name].program.info.row(),
            "agreement": self.ready[name].agreement,
            "drift": round(paired.drift(name), 4),
            "outliers": round(paired.outliers(name), 4),
            "others": round(paired.others, 2),
            "steady": paired.steady,
        }


def measure(
    ready: Mapping[str, PreparedVariant],
    baseline: str,
    failed: Mapping[str, str] | None = None,
    *,
    threads: int = 1,
    half_width: float = 0.01,
    budget_s: float = 30,
    min_rounds: int = ROUNDS,
    warmup: int = WARMUP,
    groups: int = GROUPS,
    seed: int = 0,
    report_progress: Callable[[int, float], object] = lambda rounds, widest: None,
    delays: Mapping[str, float] | None = None,
) -> Measurement:
    """Time variants in paired rounds on pinned threads.

    Args:
        ready: From `prepare`, by name.
        baseline: One of them, or of `failed`.
        failed: Variants that could not be prepared, with the reason.
        threads, half_width, budget_s, seed: As for `compare`.
        min_rounds, warmup, report_progress: As for `time_in_rounds`.
        groups: As for `program_sample`.
        delays: Variant -> seconds added to each of its calls: a planted slowdown, to test the measurement.
    """
    failed = dict(failed or {})
    variants = (*ready, *(name for name in failed if name not in ready))
    if not ready:
        return Measurement(variants, ready, baseline, failed, None, ())
    delays = delays or {}
    samples = {
        name: program_sample(variant.program, variant.example, delays.get(name, 0.0), groups)
        for name, variant in ready.items()
    }
    with pinned(threads) as pinning_error:
        paired = time_in_rounds(
            samples,
            baseline if baseline in ready else next(iter(ready)),
            budget_s=budget_s,
            half_width=half_width,
            min_rounds=min_rounds,
            warmup=warmup,
            seed=seed,
            report_progress=report_progress,
            skip_failures=True,
        )
    notes = [pinning_error] if pinning_error else []
    notes += disturbances(paired, baseline)
    return Measurement(variants, ready, baseline, {**failed, **paired.failed}, paired, tuple(notes))


def program_sample(program: Program, example: Tensor, delay: float = 0.0, groups: int = GROUPS) -> Sample:
    """Seconds per call of a program that is reloaded for every sample: the median over groups of calls.

    Args:
        program: The program to time.
        example: Its input.
        delay: Seconds of busy waiting at the end of every call.
        groups: Number of groups of calls.
    """
    timer, calls = timer_for(program.device), 0

    def sample() -> float:
        nonlocal calls
        loaded = program.fresh(example)
        run = _delayed(loaded, delay) if delay else loaded
        for _ in range(WARM_CALLS):
            run()
        calls = calls or calls_for(run, GROUP_S, timer)
        return median(timer(run, calls) / calls for _ in range(groups))

    return sample


def _delayed(run: Run, seconds: float) -> Run:
    now = time.perf_counter

    def run_slowly() -> None:
        run()
        end = now() + seconds
        while now() < end:
            pass

    return run_slowly


def disturbances(paired: PairedTimes, baseline: str) -> list[str]:
    """Disturbances of a measurement that its reader should know about, one line each."""
    notes = []
    if paired.others > BUSY:
        name = busiest_program()
        by = f", most of it {name}" if name else ""
        notes.append(f"the machine is busy: other programs keep {paired.others:.1f} of {os.cpu_count()} cores busy{by}")
    if not paired.steady:
        notes.append("times were not steady after the warm-up")
    if baseline in paired.times:
        if abs(drift := paired.drift(baseline)) > DRIFT:
            notes.append(f"the baseline took {abs(drift):.0%} {'longer' if drift > 0 else 'less'} at the end")
        if (strays := paired.outliers(baseline)) > STRAYS:
            notes.append(f"{strays:.0%} of the rounds took over 1.25 times the median")
    return notes

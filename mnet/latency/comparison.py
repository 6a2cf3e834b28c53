"""Networks side by side on one runtime: prepared, checked against eager, timed in paired rounds."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn

from mnet.errors import ConfigError, unknown
from mnet.latency.machine import busiest_program, check_threads, pinned
from mnet.latency.paired import Race, Sample, calls_for, clock_of, race
from mnet.latency.runtimes import ExportError, Precision, Program, Run, Runtime, make_runtime, one_line
from mnet.latency.runtimes.torch_eager import settled
from mnet.models.cost import cost
from mnet.models.network import MobileNet

EXPORTED = Path("results/exported")
COLUMNS = ("variant", "median_ms", "ratio", "low", "high", "rounds", "stopped")

WARM_CALLS, GROUPS, GROUP_S = 3, 11, 0.0002
"""Of a sample: calls after loading, then the median of so many groups of calls, each at least so long, which is some
thousand times the clock's resolution. A network takes longer, so that a group is one call, and one that an interrupt
fell into does not count; groups of several would favour the variant with the smaller ones."""
ROUNDS = 15
"""At least."""

TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "int8": 0.5}
"""fp32: largest error over the largest score. int8: share of images whose best class must agree; a wrong scale
changes nearly all of a thousand classes."""
TIE = 2
"""Steps of 8 bits: classes that eager puts no further from the best are as good. Untrained networks have many, and
kernels that round halves differently choose among them."""
CHECKED: Mapping[Precision, int] = {"fp32": 2, "int8": 16}
"""Images that outputs are compared on."""

BUSY, DRIFT, STRAYS = 0.25, 0.05, 0.1
"""What is worth a word: cores kept busy by others, change of the baseline, share of outliers."""

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
        nets: Variants by name: modules that take images (N, C, H, W), also what `mnet.quantization.quantize` makes.
        baseline: One of them.
        runtime: One of `mnet.latency.RUNTIMES`.
        resolution: Height and width of the images; of all, or by variant.
        threads: That a network may use, each on a core of its own.
        half_width: Stop once no 95% interval reaches further than this share from its ratio.
        budget_s: Or after so many seconds of rounds.
        batch: Images at a time.
        folder: Where exported programs are kept.
        seed: Of the images and the order within rounds.

    Returns:
        One row a variant: `variant, median_ms, ratio, low, high, rounds, stopped`. `stopped` is precise, budget, or
        failed with the reason. `attrs["notes"]` says what disturbed the measurement, which is logged too, and
        `attrs["table"]` what ran: operators, kernels, files, machine.

    Raises:
        ConfigError: Unknown baseline, runtime or variant of `resolution`, a runtime that is not installed, threads
            that this process does not have, or nothing to compare.
    """
    if baseline not in nets:
        raise unknown("baseline", baseline, nets)
    if len(nets) < 2:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    for name, value in (("half_width", half_width), ("budget_s", budget_s), ("batch", batch)):
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    check_threads(threads)
    machine = make_runtime(runtime, threads=threads, folder=Path(folder))
    sizes = dict.fromkeys(nets, resolution) if isinstance(resolution, int) else dict(resolution)
    for name in nets:
        if name not in sizes:
            raise ConfigError(f"no resolution for variant {name!r}")
    ready, failed = {}, {}
    with pinned(threads):
        for name, net in nets.items():
            try:
                ready[name] = prepare(machine, net, sizes[name], batch=batch, seed=seed)
            except ExportError as error:
                failed[name] = str(error)
    found = measure(ready, baseline, failed, threads=threads, half_width=half_width, budget_s=budget_s, seed=seed)
    for note in found.notes:
        logger.warning(note)
    frame = found.table.reindex(columns=list(COLUMNS))
    frame.attrs |= {"notes": found.notes, "table": found.table.to_dict("list")}
    return frame


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A variant that may be timed."""

    program: Program
    example: Tensor
    agreement: float
    """With eager: of fp32 the largest error over the largest score, of int8 the share of images with the same
    best class, ties apart."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """More columns of its row."""


def prepare(runtime: Runtime, net: nn.Module, resolution: int, *, batch: int = 1, seed: int = 0) -> Ready:
    """The network as a program of the runtime, its outputs checked against eager.

    Raises:
        ExportError: It cannot be exported or run, or its outputs are not finite or not those of eager.
    """
    random = torch.Generator().manual_seed(seed)
    channels = in_channels(net)
    example = torch.randn(batch, channels, resolution, resolution, generator=random)
    program = runtime.prepare(net, example)
    precision = program.ran.precision
    count = max(1, CHECKED[precision] // batch)
    images = torch.randn(count, batch, channels, resolution, resolution, generator=random)
    try:
        with torch.inference_mode():
            wanted = torch.cat([settled(net)(one) for one in images])
        scores = torch.cat([program(one) for one in images])
    except Exception as error:
        raise ExportError(f"{runtime.name} cannot run it: {one_line(error)}") from error
    if not wanted.isfinite().all():
        raise ExportError("eager's own outputs are not finite")
    facts = {}
    if isinstance(net, MobileNet):
        spent = cost(net, resolution)
        facts = {"params": spent.params, "madds": spent.madds}
    facts |= {"resolution": resolution, "batch": batch}
    return Ready(
        program=program, example=example, agreement=check(runtime.name, precision, scores, wanted), facts=facts
    )


def in_channels(net: nn.Module) -> int:
    """Of the first convolution; 3 where there is none."""
    weights = [value for value in net.state_dict().values() if isinstance(value, Tensor) and value.dim() == 4]
    return int(weights[0].shape[1]) if weights else 3


def check(runtime: str, precision: Precision, scores: Tensor, wanted: Tensor) -> float:
    """How far the outputs (N, classes) agree with eager's.

    Raises:
        ExportError: Not finite, of another shape, or too far off.
    """
    if scores.shape != wanted.shape:
        raise ExportError(f"{runtime} returns {tuple(scores.shape)}, eager {tuple(wanted.shape)}")
    if not scores.isfinite().all():
        raise ExportError(f"{runtime} returns outputs that are not finite")
    if precision == "fp32":
        error = float((scores - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
        if error > TOLERANCE["fp32"]:
            raise ExportError(f"{runtime} differs from eager by {error:.1e} of the largest score; 1e-4 is allowed")
        return error
    step = (wanted.max() - wanted.min()) / 255
    chosen = wanted.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    same = float((chosen >= wanted.amax(1) - TIE * step).float().mean())
    if same < TOLERANCE["int8"]:
        raise ExportError(f"{runtime} agrees with eager's best class on {same:.0%} of {len(wanted)} images only")
    return same


@dataclass(frozen=True)
class Measurement:
    """What came of a race, and of those that did not start."""

    variants: tuple[str, ...]
    ready: Mapping[str, Ready]
    baseline: str
    failed: Mapping[str, str]
    race: Race | None
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """`COLUMNS`, what ran, how it agreed with eager, and the machine; one row a variant, in the order given."""
        return pd.DataFrame([self.row(name) for name in self.variants])

    def row(self, name: str) -> dict[str, object]:
        row: dict[str, object] = {"variant": name, **dict.fromkeys(COLUMNS[1:5], math.nan), "rounds": 0}
        if name in self.failed or self.race is None:
            return {**row, "stopped": f"failed: {self.failed.get(name, 'nothing was timed')}"}
        one = self.ready[name]
        times = self.race.times[name]
        row |= {"median_ms": 1000 * median(times), "rounds": len(times)}
        if self.baseline in self.failed:
            row["stopped"] = f"no ratio: the baseline {self.baseline} failed"
        elif name == self.baseline:
            row |= {"ratio": 1.0, "low": 1.0, "high": 1.0, "stopped": "baseline"}
        else:
            ratio = self.race.ratio(name, self.baseline)
            row |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
            row["stopped"] = "precise" if ratio.precise else "budget"
        return {
            **row,
            **one.facts,
            **one.program.ran.row(),
            "agreement": one.agreement,
            "drift": round(self.race.drift(name), 4),
            "outliers": round(self.race.outliers(name), 4),
            "others": round(self.race.others, 2),
            "steady": self.race.steady,
        }


def measure(
    ready: Mapping[str, Ready],
    baseline: str,
    failed: Mapping[str, str] | None = None,
    *,
    threads: int = 1,
    half_width: float = 0.01,
    budget_s: float = 30,
    seed: int = 0,
    told: Callable[[int, float], object] = lambda rounds, widest: None,
    slowed: Mapping[str, float] | None = None,
) -> Measurement:
    """Time variants in paired rounds on pinned threads.

    Args:
        ready: From `prepare`, by name.
        baseline: One of them, or of `failed`.
        failed: Variants that could not be prepared, with the reason.
        threads, half_width, budget_s, seed: As for `compare`.
        told: As for `race`.
        slowed: Variant -> seconds that each of its calls waits on top: a planted slowdown, to see it found.
    """
    failed = dict(failed or {})
    variants = (*ready, *(name for name in failed if name not in ready))
    if not ready:
        return Measurement(variants, ready, baseline, failed, None, ())
    samples = {
        name: program_sample(one.program, one.example, (slowed or {}).get(name, 0.0)) for name, one in ready.items()
    }
    with pinned(threads) as refused:
        found = race(
            samples,
            baseline if baseline in ready else next(iter(ready)),
            budget_s=budget_s,
            half_width=half_width,
            min_rounds=ROUNDS,
            seed=seed,
            told=told,
            forgiving=True,
        )
    notes = [refused] if refused else []
    return Measurement(
        variants, ready, baseline, {**failed, **found.failed}, found, (*notes, *disturbances(found, baseline))
    )


def program_sample(program: Program, example: Tensor, slower: float = 0.0) -> Sample:
    """Seconds a call of a program that is loaded anew for every sample: the median of `GROUPS` groups of calls.

    Args:
        program: What to run.
        example: On what.
        slower: Seconds that every call waits at its end, busily.
    """
    clock, calls = clock_of(program.device), 0

    def sample() -> float:
        nonlocal calls
        loaded = program.fresh(example)
        run = delayed(loaded, slower) if slower else loaded
        for _ in range(WARM_CALLS):
            run()
        calls = calls or calls_for(run, GROUP_S, clock)
        return median(clock(run, calls) / calls for _ in range(GROUPS))

    return sample


def delayed(run: Run, seconds: float) -> Run:
    now = time.perf_counter

    def slow() -> None:
        run()
        end = now() + seconds
        while now() < end:
            pass

    return slow


def disturbances(found: Race, baseline: str) -> list[str]:
    """What the reader should know of the machine's behaviour, a line each."""
    notes = []
    if found.others > BUSY:
        name = busiest_program()
        by = f", most of it {name}" if name else ""
        notes.append(f"the machine is busy: other programs keep {found.others:.1f} of {os.cpu_count()} cores busy{by}")
    if not found.steady:
        notes.append("times were not steady after the warm-up")
    if baseline in found.times:
        if abs(drift := found.drift(baseline)) > DRIFT:
            notes.append(f"the baseline took {abs(drift):.0%} {'longer' if drift > 0 else 'less'} at the end")
        if (strays := found.outliers(baseline)) > STRAYS:
            notes.append(f"{strays:.0%} of the rounds took over 1.25 times the median")
    return notes

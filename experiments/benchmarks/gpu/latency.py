"""Latency of the networks that the papers compare, on a GPU: recorded, launched from Python, and compiled.

Results go to the files that `make latency` writes, `<study>/latency.csv` and `<study>/latency-claims.csv`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd
import torch
from common.sweeps import CLAIMS_FILE, load_sweep
from common.timing import PROFILE, Plan, keep, latency_studies
from torch import nn

from benchmarks.gpu.part import Settings
from mnet import Network
from mnet.errors import ConfigError
from mnet.latency.comparison import GROUPS, Measurement, measure, program_sample
from mnet.latency.machine import machine_facts
from mnet.latency.paired import MIN_ROUNDS
from mnet.latency.prepare import PreparedVariant, prepare
from mnet.latency.runtimes import Runtime, first_line, make_runtime
from mnet.studies.claims.claims import load_claims
from mnet.studies.latency.subjects import Subject, build_module, identity, list_subjects
from mnet.studies.latency.tables import claims_table, latency_table
from mnet.studies.runs.store import LATENCY
from mnet.studies.trial import Trial

ORDER = (
    *(("cuda-graphs", 1), ("cuda-eager", 1), ("cuda-graphs", 32)),
    *(("cuda-graphs", 256), ("cuda-eager", 32), ("cuda-eager", 256)),
)
"""(runtime, batch size), the most informative first, since time may run out."""
COMPILED, COMPILED_CLAIMS, COMPILE_S = "cuda-compile", ("v3-large-vs-v2-latency",), 60.0
"""The compiling runtime, the few claims timed on it, and the seconds that must be left: compiling takes half a minute
per network."""
THREADS, HALF_WIDTH, SHORTEST_S = 1, 0.01, 0.1
WARMUP = 4
"""Most rounds discarded as warm-up; a GPU is steady sooner than a CPU."""
REHEARSED_STUDIES, REHEARSED_PX, REHEARSED_BLOCKS = 1, 32, 2
"""Sizes of a rehearsal: studies, pixels, and blocks of a network."""
REHEARSED_BATCH = 2
"""Batch size in a rehearsal, instead of those in `ORDER`; compiled networks still get one image."""


@dataclass(frozen=True)
class Step:
    """A measurement: a study's networks on a runtime at a batch size."""

    plan: Plan
    runtime: Runtime
    batch: int

    def __str__(self) -> str:
        return f"{self.plan.study.name} on {self.runtime.name}, batch {self.batch}"


class Networks:
    """Networks, each built once for all studies that share it."""

    def __init__(self) -> None:
        self.built: dict[Hashable, nn.Module] = {}

    def __getitem__(self, subject: Subject) -> nn.Module:
        key = identity(subject)
        if key not in self.built:
            self.built[key] = build_module(subject)
        return self.built[key]


def run(settings: Settings) -> None:
    """Time the papers' pairs until the time runs out, and write the tables after every measurement."""
    torch.set_num_threads(THREADS)  # timing uses one core: more threads would wait for each other
    networks = Networks()
    todo = [step for step in list_steps(settings) if not is_measured(step, settings.out)]
    for i, step in enumerate(todo):
        if (left_s := _left_s(settings)) <= (COMPILE_S if step.runtime.name == COMPILED else 0.0):
            print(f"latency: no time left for {step} and {len(todo) - i - 1} more", flush=True)
            return
        if settings.rehearse and is_measured(step, settings.out):  # eager stands in for several runtimes
            continue
        try:
            take(step, networks, settings, left_s / (len(todo) - i))
        except Exception as error:  # later measurements may still succeed
            print(f"latency: {step} failed: {first_line(error)}", flush=True)
        if settings.device == "cuda":
            torch.cuda.empty_cache()


def list_steps(settings: Settings) -> Iterator[Step]:
    """Every measurement, in the order of `ORDER`; the compiled ones last."""
    plans = list(list_plans(settings.rehearse))
    compared = [plan for plan in plans if any(pair.claim.id in COMPILED_CLAIMS for pair in plan.pairs)]
    if settings.rehearse:
        plans = sorted(plans, key=lambda plan: len(plan.subjects))[:REHEARSED_STUDIES]
    for name, batch in ORDER:
        if (runtime := runtime_of(name, settings)) is not None:
            yield from (Step(plan, runtime, REHEARSED_BATCH if settings.rehearse else batch) for plan in plans)
    if (runtime := runtime_of(COMPILED, settings)) is not None:
        yield from (Step(restricted(plan, COMPILED_CLAIMS), runtime, 1) for plan in compared)


def runtime_of(name: str, settings: Settings) -> Runtime | None:
    """The runtime, or its stand-in in a rehearsal; None, with a printed reason, if it cannot run on this machine."""
    try:
        return make_runtime("eager" if settings.rehearse else name, threads=THREADS, folder=settings.out / "exported")
    except ConfigError as error:
        print(f"latency: {error}", flush=True)
        return None


def list_plans(rehearse: bool) -> Iterator[Plan]:
    """Plans of the studies with latency claims in fp32, classifiers first: only the networks that those claims compare,
    cut to a few blocks in a rehearsal."""
    claims, later = load_claims(CLAIMS_FILE), []
    for name in latency_studies():
        if not any(claim.study == name and claim.kind == "latency" for claim in claims):
            continue
        study = load_sweep(name, PROFILE, settings={"resolution": REHEARSED_PX} if rehearse else {})
        subjects, pairs = list_subjects(study, claims)
        if rehearse:
            subjects = {name: _shortened(subject) for name, subject in subjects.items()}
        int8 = {name for name, subject in subjects.items() if subject.trial.quantized}
        floats = [pair for pair in pairs if not int8 & {pair.baseline, pair.variant}]
        if not floats:
            continue
        plan = restricted(Plan(study, subjects, floats), [pair.claim.id for pair in floats])
        if any(subject.trial.head is not None for subject in plan.subjects.values()):
            later.append(plan)
        else:
            yield plan
    yield from later


class ShortTrial(Trial):
    """A trial whose network has few blocks."""

    def network(self, num_classes: int, in_channels: int) -> Network:
        network = super().network(num_classes, in_channels)
        return replace(network, blocks=network.blocks[:REHEARSED_BLOCKS])


def _shortened(subject: Subject) -> Subject:
    return replace(subject, trial=ShortTrial(**{one.name: getattr(subject.trial, one.name) for one in fields(Trial)}))


def restricted(plan: Plan, claims: Sequence[str]) -> Plan:
    """The plan with only the networks of some of its claims, in the same order: the first is the baseline."""
    pairs = [pair for pair in plan.pairs if pair.claim.id in claims]
    names = {name for pair in pairs for name in (pair.baseline, pair.variant)}
    return replace(plan, subjects={name: one for name, one in plan.subjects.items() if name in names}, pairs=pairs)


def is_measured(step: Step, out: Path) -> bool:
    """Whether the table has a time for every network of this step, by the same code on the same device."""
    with suppress(OSError, KeyError, pd.errors.EmptyDataError):
        rows = pd.read_csv(out / step.plan.study.name / LATENCY, dtype=str, keep_default_na=False)
        facts = machine_facts(step.runtime.device)
        wanted = {"runtime": step.runtime.name, "batch": step.batch, "threads": THREADS}
        wanted |= {name: facts[name] for name in ("device", "torch", "revision")}
        for name, value in wanted.items():
            rows = rows[rows[name] == str(value)]
        return set(step.plan.subjects) <= set(rows.loc[rows["median_ms"] != "", "variant"])
    return False


def take(step: Step, networks: Networks, settings: Settings, share_s: float) -> None:
    """Measure a step and write its rows, unless even the minimum number of rounds would take longer than the time left.

    Args:
        step: What to measure.
        networks: The networks built so far.
        settings: Settings of the part.
        share_s: Seconds for this step, preparation included; the minimum number of rounds runs even if it takes longer.
    """
    started, groups = time.monotonic(), 1 if settings.rehearse else GROUPS
    ready: dict[str, PreparedVariant] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name, subject in step.plan.subjects.items():
        try:
            variant = prepare(step.runtime, networks[subject], subject.resolution, batch=step.batch)
            seconds[name] = _seconds_of_a_sample(variant, groups)
            ready[name] = variant
        except Exception as error:
            failed[name] = first_line(error)
            print(f"latency: {step}: {name} failed: {failed[name]}", flush=True)
        if _left_s(settings) <= 0:
            print(f"latency: no time left to prepare {step}", flush=True)
            return
    if _shortest(seconds) > _left_s(settings):  # the first sample also sets up the GPU; a second shows the true time
        seconds = {name: _seconds_of_a_sample(variant, groups) for name, variant in ready.items()}
        if _shortest(seconds) > _left_s(settings):
            print(f"latency: not enough time left, {_shortest(seconds):.0f} s are needed for {step}", flush=True)
            return
    budget_s = max(SHORTEST_S, share_s - (time.monotonic() - started))
    measurement = measure(
        ready,
        next(iter(step.plan.subjects)),
        failed,
        threads=THREADS,
        half_width=HALF_WIDTH,
        budget_s=SHORTEST_S if settings.rehearse else budget_s,
        min_rounds=MIN_ROUNDS,
        warmup=1 if settings.rehearse else WARMUP,
        groups=groups,
    )
    write(step, measurement, settings.out)
    rounds = max((len(times) for times in measurement.paired.times.values()), default=0) if measurement.paired else 0
    spent = time.monotonic() - started
    print(f"latency: {step}: {len(measurement.ready)} networks, {rounds} rounds, {spent:.1f} s", flush=True)
    for note in measurement.notes:
        print(f"  {note}", flush=True)


def write(step: Step, measurement: Measurement, out: Path) -> None:
    """Write the rows of a measurement into the tables of its study."""
    plan, runtime = step.plan, step.runtime
    table = latency_table(plan.study, measurement, plan.subjects, runtime, step.batch)
    keep(out / plan.study.name, table, claims_table(plan.pairs, measurement, runtime.name, THREADS, step.batch))


def _left_s(settings: Settings) -> float:
    """Seconds left; no limit for a rehearsal, which is short."""
    return math.inf if settings.rehearse else settings.left_s


def _seconds_of_a_sample(variant: PreparedVariant, groups: int) -> float:
    """Seconds of one sample; a network that would fail in the rounds already fails in this one."""
    started = time.monotonic()
    program_sample(variant.program, variant.example, groups=groups)()
    return time.monotonic() - started


def _shortest(seconds: dict[str, float]) -> float:
    """Seconds of the minimum number of rounds and two before them; `seconds` has those of a sample by network."""
    return math.fsum(seconds.values()) * (MIN_ROUNDS + 2)

"""Paired timing: in every round each variant runs once, in random order, and is compared with the baseline beside it.

What slows the machine for a while slows a whole round, and cancels in the round's ratio.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch

from mnet.errors import ConfigError, unknown
from mnet.latency.machine import BackgroundLoad

Sample = Callable[[], float]
"""Does the work once and says how many seconds it took."""
Clock = Callable[[Callable[[], object], int], float]
"""Runs work so many times and says how many seconds that took."""
Stopped = Literal["precise", "budget"]

MIN_ROUNDS = 9
NORMAL = 1.959964
"""Of a 95% interval."""
STEADY = 0.05
"""Two samples in a row that differ by less are steady."""
OUTLIER = 1.25
"""Times the median."""


@dataclass(frozen=True)
class Ratio:
    """Time of a variant over time of the baseline: the pseudo-median over rounds, with its signed-rank 95% interval."""

    value: float
    low: float
    high: float
    rounds: int
    ms: float
    """Median of the variant, in milliseconds."""
    baseline_ms: float
    precise: bool
    """Whether the interval became as narrow as asked before the budget ended."""


@dataclass(frozen=True)
class Race:
    """The times of variants that ran side by side, and what happened meanwhile."""

    times: Mapping[str, np.ndarray]
    """Variant -> (rounds,) seconds a call."""
    half_width: float
    failed: Mapping[str, str]
    """Variant -> why it could not be timed."""
    steady: bool
    """Whether the warm-up ended because two samples agreed."""
    others: float
    """Mean number of cores that other programs kept busy."""

    def ratio(self, variant: str, baseline: str) -> Ratio:
        """The time of one variant over that of another, round by round."""
        return ratio(self.times[variant], self.times[baseline], self.half_width)

    def drift(self, variant: str) -> float:
        """How much longer the last third of the rounds took than the first, as a share."""
        third = max(1, len(self.times[variant]) // 3)
        first, last = np.median(self.times[variant][:third]), np.median(self.times[variant][-third:])
        return float(last / first - 1)

    def outliers(self, variant: str) -> float:
        """The share of rounds that took over `OUTLIER` times the median."""
        return float(np.mean(self.times[variant] > OUTLIER * np.median(self.times[variant])))


def timed(work: Callable[[], object], *, calls: int = 1, device: str = "cpu") -> Sample:
    """A sample of `work`: seconds a call, the mean of `calls` in a row, GPU work included."""
    clock = clock_of(device)
    return lambda: clock(work, calls) / calls


def clock_of(device: str) -> Clock:
    """The clock for work on a device: the processor's, or events on the GPU's own queue."""
    return gpu_seconds if device.startswith("cuda") else cpu_seconds


def cpu_seconds(work: Callable[[], object], calls: int) -> float:
    """Nothing but `work` is allocated or looked up between the two readings."""
    times, now = repeat(None, calls), time.perf_counter
    start = now()
    for _ in times:
        work()
    return now() - start


def gpu_seconds(work: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one to wait for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def calls_for(work: Callable[[], object], seconds: float, clock: Clock = cpu_seconds) -> int:
    """How many calls of `work` in a row take at least so long; the shortest of three tries counts, since a disturbed
    one would be taken for long work."""
    calls = 1
    while (spent := min(clock(work, calls) for _ in range(3))) < seconds:
        calls = math.ceil(calls * min(10.0, 1.2 * seconds / max(spent, 1e-9)))
    return calls


def paired_ratios(
    samples: Mapping[str, Sample],
    baseline: str,
    *,
    budget_s: float,
    precision: float = 0.01,
    min_rounds: int = MIN_ROUNDS,
    warmup: int = 2,
    seed: int = 0,
) -> dict[str, Ratio]:
    """Every other variant's time over the baseline's.

    Args and Raises as `race`; `precision` is its `half_width`.
    """
    found = race(
        samples, baseline, budget_s=budget_s, half_width=precision, min_rounds=min_rounds, warmup=warmup, seed=seed
    )
    return {name: found.ratio(name, baseline) for name in samples if name != baseline}


def race(
    samples: Mapping[str, Sample],
    baseline: str,
    *,
    budget_s: float,
    half_width: float = 0.01,
    min_rounds: int = MIN_ROUNDS,
    warmup: int = 10,
    seed: int = 0,
    told: Callable[[int, float], object] = lambda rounds, widest: None,
    forgiving: bool = False,
) -> Race:
    """Time variants round by round until every ratio to the baseline is known precisely enough.

    Args:
        samples: Variants by name.
        baseline: One of them.
        budget_s: Seconds after which no further round begins; `min_rounds` are always run.
        half_width: Stop once no interval reaches further than this share from its ratio.
        min_rounds: At least `MIN_ROUNDS`.
        warmup: At most so many rounds before, not counted; fewer where the baseline is steady.
        seed: Of the order within rounds.
        told: Called with the number of rounds and the widest half interval, each time that is looked at.
        forgiving: Leave out a variant that raises, instead of ending; and time one that has no other beside it.

    Raises:
        ConfigError: Unknown baseline, nothing to compare it with, or too few rounds for an interval.
    """
    if baseline not in samples:
        raise unknown("baseline", baseline, samples)
    if len(samples) < 2 and not forgiving:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    if min_rounds < MIN_ROUNDS:
        raise ConfigError(f"min_rounds is {min_rounds}; an interval needs at least {MIN_ROUNDS}")
    settle_heap()
    random = np.random.default_rng(seed)
    running, failed = dict(samples), {}
    times: dict[str, list[float]] = {name: [] for name in samples}

    def sample(name: str) -> float:
        try:
            return running[name]()
        except Exception as error:
            if not forgiving or name == baseline:
                raise
            failed[name] = f"{type(error).__name__}: {error}"
            del running[name]
            return math.nan

    with no_garbage_collection():
        steady = warm_up(sample, running, baseline, warmup)
        others, end, look = BackgroundLoad(), time.perf_counter() + budget_s, min_rounds
        while True:
            for name in random.permutation(list(running)):
                times[name].append(sample(name))
            gc.collect()  # here, where no clock runs
            rounds, over = len(times[baseline]), time.perf_counter() >= end
            if rounds < min_rounds or not (over or rounds >= look):
                continue
            look = rounds + max(3, rounds // 10)
            kept = {name: np.array(times[name]) for name in running}
            found = [ratio(kept[name], kept[baseline], half_width) for name in kept if name != baseline]
            told(rounds, max((max(one.high / one.value - 1, 1 - one.low / one.value) for one in found), default=0.0))
            if over or all(one.precise for one in found):
                return Race(kept, half_width, failed, steady, others.cores)


def warm_up(sample: Callable[[str], float], running: Mapping[str, Sample], baseline: str, rounds: int) -> bool:
    """Rounds that are not counted, until the baseline is steady."""
    last = math.inf
    for _ in range(rounds):
        now = {name: sample(name) for name in list(running)}[baseline]
        if abs(now - last) <= STEADY * now:
            return True
        last = now
    return False


def ratio(times: np.ndarray, baseline: np.ndarray, half_width: float) -> Ratio:
    """`times / baseline`, both (rounds,) in seconds: Hodges and Lehmann's estimate on logarithms, with the interval
    of Wilcoxon's signed-rank test.

    Of identical variants the log-ratios are symmetric about zero whatever the noise, which is all that the test
    asks; in simulations with outliers it calls 3 to 5% of such pairs different, a bootstrap of the median 7 to 12%.
    """
    pairs = np.log(times / baseline)
    n = len(pairs)
    means = np.sort(((pairs[:, None] + pairs) / 2)[np.triu_indices(n)])
    spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    cut = max(0, math.floor(n * (n + 1) / 4 - NORMAL * spread) - 1)
    low, value, high = np.exp([means[cut], np.median(means), means[-1 - cut]])
    return Ratio(
        value=float(value),
        low=float(low),
        high=float(high),
        rounds=n,
        ms=float(1000 * np.median(times)),
        baseline_ms=float(1000 * np.median(baseline)),
        precise=bool(max(high - value, value - low) <= half_width * value),
    )


def settle_heap() -> None:
    """Have glibc keep up to 62 MB of freed memory, as it does in any program that has once freed a large block.

    Else it gives a network's activations back to the system and faults them in again, at every forward pass of
    one variant and none of another: up to 30% of V2's latency, by luck.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The cyclic collector strikes one variant for what all have left."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # so that collecting between rounds only walks what is new
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()

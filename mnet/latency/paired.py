"""Paired timing: every round runs each variant once, in random order, and compares it with the baseline of that round.

Whatever slows the machine for a while slows a whole round, and cancels in the round's ratio.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mnet.errors import ConfigError, unknown
from mnet.latency.machine import BackgroundLoad
from mnet.latency.timing import Sample

MIN_ROUNDS = 9
NORMAL = 1.959964
"""Normal quantile for a two-sided 95% interval."""
STEADY = 0.05
"""Largest relative difference between two consecutive samples of a steady baseline."""
OUTLIER = 1.25
"""Multiple of the median above which a round is an outlier."""


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
    """Whether the interval is as narrow as requested."""


@dataclass(frozen=True)
class PairedTimes:
    """The times of variants that were run in the same rounds, and the conditions of the measurement."""

    times: Mapping[str, np.ndarray]
    """Variant -> (rounds,) seconds per call."""
    half_width: float
    failed: Mapping[str, str]
    """Variant -> why it could not be timed."""
    steady: bool
    """Whether the baseline was steady at the end of the warm-up."""
    others: float
    """Mean number of cores kept busy by other programs."""

    def ratio(self, variant: str, baseline: str) -> Ratio:
        """The time of one variant over that of another, paired by round."""
        return ratio(self.times[variant], self.times[baseline], self.half_width)

    def ms(self, variant: str) -> float:
        """Median, in milliseconds."""
        return 1000 * float(np.median(self.times[variant]))

    def drift(self, variant: str) -> float:
        """Relative change of the median from the first third of the rounds to the last."""
        third = max(1, len(self.times[variant]) // 3)
        first, last = np.median(self.times[variant][:third]), np.median(self.times[variant][-third:])
        return float(last / first - 1)

    def outliers(self, variant: str) -> float:
        """Share of rounds that took over `OUTLIER` times the median."""
        return float(np.mean(self.times[variant] > OUTLIER * np.median(self.times[variant])))


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
    """The time of every other variant over the baseline's.

    Args and Raises as for `time_in_rounds`; `precision` is its `half_width`.
    """
    result = time_in_rounds(
        samples,
        baseline,
        budget_s=budget_s,
        half_width=precision,
        min_rounds=min_rounds,
        warmup=warmup,
        seed=seed,
    )
    return {name: result.ratio(name, baseline) for name in samples if name != baseline}


def time_in_rounds(
    samples: Mapping[str, Sample],
    baseline: str,
    *,
    budget_s: float,
    half_width: float = 0.01,
    min_rounds: int = MIN_ROUNDS,
    warmup: int = 10,
    seed: int = 0,
    report_progress: Callable[[int, float], object] = lambda rounds, widest: None,
    skip_failures: bool = False,
) -> PairedTimes:
    """Time variants round by round until every ratio to the baseline is precise enough.

    Args:
        samples: Variants by name.
        baseline: One of them.
        budget_s: Seconds after which no further round starts.
        half_width: Stop when no interval extends further from its ratio than this share of it.
        min_rounds: Rounds that are always run; at least `MIN_ROUNDS`.
        warmup: Maximum number of warm-up rounds, which are not counted; fewer if the baseline is steady sooner.
        seed: Seed of the order within rounds.
        report_progress: Called with the number of rounds and the largest relative half width at every precision check.
        skip_failures: Leave out a variant that raises (not the baseline) instead of failing; accept a single variant.

    Raises:
        ConfigError: Unknown baseline, nothing to compare it with, or too few rounds for an interval.
    """
    if baseline not in samples:
        raise unknown("baseline", baseline, samples)
    if len(samples) < 2 and not skip_failures:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    if min_rounds < MIN_ROUNDS:
        raise ConfigError(f"min_rounds is {min_rounds}; an interval needs at least {MIN_ROUNDS}")
    _grow_heap()
    random = np.random.default_rng(seed)
    running, failed = dict(samples), {}
    times: dict[str, list[float]] = {name: [] for name in samples}

    def sample(name: str) -> float:
        try:
            return running[name]()
        except Exception as error:
            if not skip_failures or name == baseline:
                raise
            failed[name] = f"{type(error).__name__}: {error}"
            del running[name]
            return math.nan

    with _no_garbage_collection():
        steady = _warm_up(sample, running, baseline, warmup)
        background, end, next_check = BackgroundLoad(), time.perf_counter() + budget_s, min_rounds
        while True:
            for name in random.permutation(list(running)):
                times[name].append(sample(name))
            gc.collect()  # while nothing is timed
            rounds, over = len(times[baseline]), time.perf_counter() >= end
            if rounds < min_rounds or not (over or rounds >= next_check):
                continue
            next_check = rounds + max(3, rounds // 10)
            arrays = {name: np.array(times[name]) for name in running}
            ratios = [ratio(arrays[name], arrays[baseline], half_width) for name in arrays if name != baseline]
            widest = max((max(r.high / r.value - 1, 1 - r.low / r.value) for r in ratios), default=0.0)
            report_progress(rounds, widest)
            if over or all(r.precise for r in ratios):
                return PairedTimes(arrays, half_width, failed, steady, background.cores)


def _warm_up(sample: Callable[[str], float], running: Mapping[str, Sample], baseline: str, rounds: int) -> bool:
    """Run rounds that are not counted, until the baseline is steady."""
    last = math.inf
    for _ in range(rounds):
        current = {name: sample(name) for name in list(running)}[baseline]
        if abs(current - last) <= STEADY * current:
            return True
        last = current
    return False


def ratio(times: np.ndarray, baseline: np.ndarray, half_width: float) -> Ratio:
    """`times / baseline`, both (rounds,) in seconds: Hodges and Lehmann's estimate on logarithms, with the interval
    of Wilcoxon's signed-rank test.

    The log-ratios of identical variants are symmetric about zero for any noise, and the test assumes nothing else.
    In simulations with outliers it calls 3 to 5% of such pairs different; a bootstrap of the median, 7 to 12%.
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


def _grow_heap() -> None:
    """Make glibc keep up to 62 MB of freed memory, as in any program that has freed a large block.

    Otherwise it may return a network's activations to the system and fault them in again in every forward pass, for one
    variant and not the others, at random: up to 30% of V2's latency.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The cyclic collector would charge one variant for the garbage of all."""
    enabled, frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()  # so that collections between rounds visit only new objects
    gc.disable()
    try:
        yield
    finally:
        if not frozen:  # objects that the caller froze cannot be told apart from these, so all stay frozen
            gc.unfreeze()
        if enabled:
            gc.enable()

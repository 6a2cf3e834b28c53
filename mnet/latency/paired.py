"""Paired timing: in every round each variant runs once, in random order, and is compared with the baseline beside it.

What slows the machine for a while slows a whole round, and cancels in the round's ratio.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mnet.errors import ConfigError, unknown

Sample = Callable[[], float]
"""Does the work once and says how many seconds it took."""
MIN_ROUNDS = 9
RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Time of a variant over time of the baseline: the median over rounds, with its bootstrap 95% interval."""

    value: float
    low: float
    high: float
    rounds: int
    ms: float
    """Median of the variant, in milliseconds."""
    baseline_ms: float
    precise: bool
    """Whether the interval became as narrow as asked before the budget ended."""


def timed(work: Callable[[], object], *, calls: int = 1, device: str = "cpu") -> Sample:
    """A sample of `work`: seconds a call, the mean of `calls` in a row, GPU work included."""

    def sample() -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(device)
        return (time.perf_counter() - start) / calls

    return sample


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one to wait for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


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

    Args:
        samples: Variants by name.
        baseline: One of them.
        budget_s: Seconds after which no further round begins; `min_rounds` are always run.
        precision: Stop once no interval reaches further than this share from its ratio.
        min_rounds: At least `MIN_ROUNDS`.
        warmup: Rounds run before, not counted.
        seed: Of the order within rounds and of the bootstrap.

    Raises:
        ConfigError: Unknown baseline, nothing to compare it with, or too few rounds for an interval.
    """
    if baseline not in samples:
        raise unknown("baseline", baseline, samples)
    if len(samples) < 2:
        raise ConfigError(f"nothing to compare {baseline!r} with")
    if min_rounds < MIN_ROUNDS:
        raise ConfigError(f"min_rounds is {min_rounds}; an interval needs at least {MIN_ROUNDS}")
    settle_heap()
    random = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in samples}
    with no_garbage_collection():
        for _ in range(warmup):
            for sample in samples.values():
                sample()
        end = time.perf_counter() + budget_s
        while True:
            for name in random.permutation(list(samples)):
                times[name].append(samples[name]())
            gc.collect()  # here, where no clock runs
            rounds, over = len(times[baseline]), time.perf_counter() >= end
            if rounds < min_rounds or not (over or rounds % MIN_ROUNDS == 0):
                continue
            ratios = {
                name: ratio(np.array(times[name]), np.array(times[baseline]), precision)
                for name in samples
                if name != baseline
            }
            if over or all(found.precise for found in ratios.values()):
                return ratios


def ratio(times: np.ndarray, baseline: np.ndarray, precision: float) -> Ratio:
    """The median of `times / baseline`, both (rounds,) in seconds, and its interval over resampled rounds."""
    pairs = times / baseline
    chosen = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.quantile(np.median(pairs[chosen], axis=1), (0.025, 0.975))
    value = np.median(pairs)
    return Ratio(
        value=float(value),
        low=float(low),
        high=float(high),
        rounds=len(pairs),
        ms=float(1000 * np.median(times)),
        baseline_ms=float(1000 * np.median(baseline)),
        precise=bool(max(high - value, value - low) <= precision * value),
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

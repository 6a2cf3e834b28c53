"""Paired timing on clocks that the tests own."""

import gc

import numpy as np
import pytest

from mnet.errors import ConfigError
from mnet.latency import paired_ratios, timed


class Machine:
    """A noisy machine: its speed drifts twofold, and each sample has a jitter of 3% of its own."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng([seed, 1])  # not the stream that orders the rounds
        self.samples = 0

    def sample(self, seconds: float):
        def run() -> float:
            self.samples += 1
            speed = 1.5 + 0.5 * np.sin(self.samples / 40)
            return seconds * speed * self.random.lognormal(0, 0.03)

        return run


def test_a_variant_against_itself_is_not_called_different():
    inside = 0
    for seed in range(12):
        machine = Machine(seed)
        same = {name: machine.sample(0.1) for name in ("a", "a again")}
        found = paired_ratios(same, "a", min_rounds=30, budget_s=0, warmup=0, seed=seed)["a again"]
        inside += found.low <= 1 <= found.high
        assert found.high - found.low < 0.1  # the drift, of a factor of two, has cancelled
    assert inside >= 10


def test_a_slowdown_of_5_percent_is_found_in_spite_of_drift():
    machine = Machine(0)
    pair = {"base": machine.sample(0.1), "slow": machine.sample(0.105)}
    found = paired_ratios(pair, "base", min_rounds=60, budget_s=0, warmup=0)["slow"]
    assert 1 < found.low <= 1.05 <= found.high < 1.1
    assert found.ms > found.baseline_ms


def test_work_done_twice_takes_twice_as_long(clock):
    def work() -> None:
        clock.spend(0.1)

    def double() -> None:
        work()
        work()

    variants = {"once": timed(work, calls=2), "once again": timed(work, calls=2), "twice": timed(double, calls=2)}
    found = paired_ratios(variants, "once", precision=0.02, budget_s=60)
    assert found["twice"].value == pytest.approx(2, rel=0.02)
    assert found["once again"].value == pytest.approx(1, rel=0.02)


def test_measuring_stops_at_the_asked_precision_or_says_that_the_budget_ended():
    machine = Machine(0)
    pair = {"a": machine.sample(0.1), "b": machine.sample(0.1)}
    loose = paired_ratios(pair, "a", precision=0.2, budget_s=60)["b"]
    assert (loose.rounds, loose.precise) == (9, True)
    tight = paired_ratios(pair, "a", precision=1e-9, budget_s=0.05)["b"]
    assert tight.rounds >= 9
    assert not tight.precise


def test_every_round_runs_each_variant_once_in_a_random_order():
    ran: list[str] = []

    def sample(name: str):
        return lambda: ran.append(name) or 1.0

    paired_ratios({name: sample(name) for name in "abc"}, "a", min_rounds=30, budget_s=0, warmup=0)
    rounds = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6


def test_garbage_is_not_collected_between_the_clocks_and_is_afterwards():
    during: list[bool] = []

    def sample() -> float:
        during.append(gc.isenabled())
        return 1.0

    paired_ratios({"a": sample, "b": sample}, "a", budget_s=0)
    assert not any(during)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("names", "baseline", "rounds", "message"),
    [("ab", "c", 9, "baseline"), ("a", "a", 9, "nothing to compare"), ("ab", "a", 2, "at least 9")],
)
def test_a_comparison_without_meaning_is_refused_before_anything_runs(names, baseline, rounds, message):
    def sample() -> float:
        raise AssertionError

    with pytest.raises(ConfigError, match=message):
        paired_ratios(dict.fromkeys(names, sample), baseline, min_rounds=rounds, budget_s=1)


def test_a_sample_is_seconds_a_call(clock):
    assert timed(lambda: clock.spend(0.1), calls=3)() == pytest.approx(0.1, rel=0.05)

"""Paired timing of simulated variants, and of work on a virtual clock."""

import gc

import numpy as np
import pytest

from mnet.errors import ConfigError
from mnet.latency import paired_ratios, timed
from mnet.latency.timing import calls_for, timer_for


class Machine:
    """A noisy machine: its speed drifts twofold, and each sample has a jitter of 3%."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng([seed, 1])  # not the stream that shuffles the rounds
        self.samples = 0

    def sample(self, seconds: float):
        def run() -> float:
            self.samples += 1
            speed = 1.5 + 0.5 * np.sin(self.samples / 40)
            return seconds * speed * self.random.lognormal(0, 0.03)

        return run


def test_a_variant_does_not_differ_from_itself():
    inside = 0
    for seed in range(12):
        machine = Machine(seed)
        same = {name: machine.sample(0.1) for name in ("a", "a again")}
        ratio = paired_ratios(same, "a", min_rounds=30, budget_s=0, warmup=0, seed=seed)["a again"]
        inside += ratio.low <= 1 <= ratio.high
        assert ratio.high - ratio.low < 0.1  # the twofold drift has cancelled
    assert inside >= 10


def test_a_slowdown_of_5_percent_is_detected_despite_drift():
    machine = Machine(0)
    pair = {"base": machine.sample(0.1), "slow": machine.sample(0.105)}
    ratio = paired_ratios(pair, "base", min_rounds=60, budget_s=0, warmup=0)["slow"]
    assert 1 < ratio.low <= 1.05 <= ratio.high < 1.1
    assert ratio.ms > ratio.baseline_ms


def test_work_done_twice_takes_twice_as_long(clock):

    def work() -> None:
        clock.spend(0.001)

    def double() -> None:
        work()
        work()

    works = {"once": work, "once again": work, "twice": double}
    variants = {name: timed(work, calls=2) for name, work in works.items()}
    ratios = paired_ratios(variants, "once", budget_s=1, precision=0.02)
    assert ratios["twice"].value == pytest.approx(2, rel=0.02)
    assert ratios["twice"].ms == pytest.approx(2, rel=0.02)
    assert ratios["once again"].value == pytest.approx(1, rel=0.02)


def test_timing_stops_at_the_requested_precision_or_when_the_budget_ends(clock):
    machine = Machine(0)
    pair = {"a": machine.sample(0.1), "b": machine.sample(0.1)}
    loose = paired_ratios(pair, "a", precision=0.2, budget_s=60)["b"]
    assert (loose.rounds, loose.precise) == (9, True)
    tight = paired_ratios(pair, "a", precision=1e-9, budget_s=0.5e-4)["b"]  # a tick per round
    assert 48 <= tight.rounds <= 52
    assert not tight.precise


def test_every_round_runs_each_variant_once_in_a_random_order():
    ran: list[str] = []

    def sample(name: str):
        return lambda: ran.append(name) or 1.0

    paired_ratios({name: sample(name) for name in "abc"}, "a", min_rounds=30, budget_s=0, warmup=0)
    rounds = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) == 6


def test_garbage_is_not_collected_while_timing():
    during: list[bool] = []

    def sample() -> float:
        during.append(gc.isenabled())
        return 1.0

    paired_ratios({"a": sample, "b": sample}, "a", budget_s=0)
    assert not any(during)
    assert gc.isenabled()


def test_what_a_program_has_frozen_stays_frozen_and_nothing_else_does():
    """Programs freeze their imports: if a timing thawed them, every later collection would visit them."""
    gc.unfreeze()
    samples = dict.fromkeys("ab", lambda: 1.0)
    try:
        paired_ratios(samples, "a", budget_s=0)
        assert not gc.get_freeze_count()
        gc.freeze()
        before = gc.get_freeze_count()
        paired_ratios(samples, "a", budget_s=0)
        assert gc.get_freeze_count() >= before
    finally:
        gc.freeze()  # as in tests/conftest.py


@pytest.mark.parametrize(
    ("names", "baseline", "rounds", "message"),
    [("ab", "c", 9, "baseline"), ("a", "a", 9, "nothing to compare"), ("ab", "a", 2, "at least 9")],
)
def test_a_meaningless_comparison_raises_before_anything_runs(names, baseline, rounds, message):
    def sample() -> float:
        raise AssertionError

    with pytest.raises(ConfigError, match=message):
        paired_ratios(dict.fromkeys(names, sample), baseline, min_rounds=rounds, budget_s=1)


def test_a_sample_is_seconds_per_call(clock):
    assert timed(lambda: clock.spend(0.01), calls=3)() == pytest.approx(0.01, rel=0.05)


def test_calls_are_repeated_until_a_group_lasts_long_enough(clock):
    calls = calls_for(lambda: clock.spend(1e-5), 2e-4, timer_for("cpu"))
    assert 20 <= calls <= 24
    assert calls_for(lambda: clock.spend(1), 2e-4, timer_for("cpu")) == 1

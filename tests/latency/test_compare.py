"""Paired comparison of networks: ratios, failures, disturbances and invalid arguments."""

import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mnet.latency
from mnet.errors import ConfigError
from mnet.latency.comparison import COLUMNS, disturbances, measure
from mnet.latency.machine import pinned
from mnet.latency.paired import time_in_rounds
from mnet.latency.prepare import check_outputs, prepare
from mnet.latency.runtimes import ExportError, make_runtime


class Work(nn.Module):
    """A module that takes a number of milliseconds on the test's clock."""

    def __init__(self, ms: float):
        super().__init__()
        self.seconds, self.weight = ms / 1000, nn.Parameter(torch.eye(96))

    def forward(self, x):
        return (x @ self.weight).mean((1, 2))


def test_a_table_has_one_row_per_variant_and_twice_the_work_takes_twice_as_long(clock):
    nets = {"once": Work(1), "again": Work(1), "twice": Work(2)}
    frame = mnet.latency.compare(nets, "once", resolution=96, half_width=0.2, budget_s=20)
    assert tuple(frame.columns) == COLUMNS
    rows = frame.set_index("variant")
    assert list(rows.index) == list(nets)
    assert tuple(rows.loc["once", ["ratio", "low", "high", "stopped"]]) == (1, 1, 1, "baseline")
    assert rows.loc["twice", "ratio"] == pytest.approx(2, rel=0.02)
    assert rows.loc["twice", "median_ms"] == pytest.approx(2, rel=0.02)
    assert rows.loc["twice", "low"] > rows.loc["again", "high"]
    assert set(rows["stopped"][1:]) == {"precise"}
    assert (frame["rounds"] >= 15).all()
    assert set(frame.attrs["table"]["kernels"])


def test_a_planted_slowdown_is_detected_and_identical_programs_do_not_differ(clock):
    program = prepare(make_runtime("eager"), Work(1), 96)
    variants = {"a": program, "b": program, "slow": program}
    measurement = measure(variants, "a", half_width=0.02, budget_s=20, delays={"slow": 5e-4})
    rows = measurement.table.set_index("variant")
    assert rows.loc["slow", "ratio"] == pytest.approx(1.5, rel=0.02)
    assert rows.loc["slow", "low"] > 1.02
    assert rows.loc["b", "low"] <= 1 <= rows.loc["b", "high"]


def test_a_failed_variant_is_reported_and_the_rest_is_kept(clock):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such kernel")

    settings = {"resolution": 96, "half_width": 0.5, "budget_s": 5}
    nets = {"good": Work(2), "broken": Broken(), "better": Work(1)}
    frame = mnet.latency.compare(nets, baseline="good", **settings).set_index("variant")
    assert frame.loc["broken", "stopped"].startswith("failed: eager cannot run it: RuntimeError: no such kernel")
    assert frame.loc["better", "high"] < 1
    without = mnet.latency.compare(nets, baseline="broken", **settings)
    assert without["ratio"].isna().all()
    assert without.set_index("variant").loc["good", "median_ms"] > 0


def test_a_variant_that_fails_while_it_is_timed_is_left_out():
    calls = []

    def sometimes() -> float:
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("out of memory")
        return 1.0

    samples = {"a": lambda: 1.0, "b": lambda: 2.0, "c": sometimes}
    paired = time_in_rounds(samples, "a", budget_s=0, min_rounds=20, skip_failures=True)
    assert paired.failed == {"c": "RuntimeError: out of memory"}
    assert paired.ratio("b", "a").value == pytest.approx(2)
    assert len(paired.times["b"]) >= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "goood"}, "unknown baseline 'goood'; one of good, other. Did you mean good"),
        ({"nets": {"good": nn.Identity()}}, "nothing to compare"),
        ({"runtime": "eagre"}, "unknown runtime 'eagre'.*Did you mean eager"),
        ({"threads": 999}, "threads must be 1 to .*, the cores of this process, not 999"),
        ({"half_width": 0}, "half_width must be above 0, not 0"),
        ({"resolution": {"good": 32}}, "no resolution for variant 'other'"),
    ],
)
def test_invalid_arguments_raise_before_anything_runs(change, message):
    class Never(nn.Module):
        def forward(self, x):
            pytest.fail("ran")

    call = {"nets": {"good": Never(), "other": Never()}, "baseline": "good"} | change
    with pytest.raises(ConfigError, match=message):
        mnet.latency.compare(**call)


def test_without_permission_to_pin_threads_it_measures_with_a_note(clock, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    nets = {"a": Work(1), "b": Work(1)}
    with caplog.at_level(logging.WARNING):
        frame = mnet.latency.compare(nets, "a", resolution=96, half_width=0.9, budget_s=1)
    assert "not pinned to a core: not permitted" in frame.attrs["notes"]
    assert "not pinned" in caplog.text
    assert frame["ratio"].notna().all()


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system pins no process to cores: run this file on Linux"
)
def test_threads_are_pinned_while_measuring_and_free_afterwards():
    before = os.sched_getaffinity(0)
    with pinned(1) as error:
        assert not error
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == before


def test_notes_name_drift_and_a_busy_machine():
    speeds = iter([1.0] * 12 + [1.4] * 12)
    samples = {"a": lambda: next(speeds, 1.4), "b": lambda: 1.0}
    paired = time_in_rounds(samples, "a", budget_s=0, min_rounds=21, warmup=0)
    assert any("longer at the end" in note for note in disturbances(paired, "a"))
    assert not any("busy" in note for note in disturbances(replace(paired, others=0.1), "a"))
    assert any("keep 3.0 of" in note for note in disturbances(replace(paired, others=3.0), "a"))
    stray = {**paired.times, "a": np.array([1.0] * 15 + [2.0] * 6)}
    assert any(
        "29% of the rounds took over 1.25 times" in note for note in disturbances(replace(paired, times=stray), "a")
    )


def test_a_single_remaining_variant_is_timed_without_a_ratio(clock):
    program = prepare(make_runtime("eager"), Work(1), 96)
    measurement = measure({"b": program}, "a", {"a": "no such kernel"}, budget_s=1)
    rows = measurement.table.set_index("variant")
    assert rows.loc["b", "median_ms"] == pytest.approx(1, rel=0.02)
    assert rows.loc["b", "stopped"] == "no ratio: the baseline a failed"
    assert rows.loc["a", "stopped"] == "failed: no such kernel"


def test_int8_may_be_rounded_differently_but_not_scaled_or_shuffled():
    random = torch.Generator().manual_seed(0)
    expected = torch.randn(16, 100, generator=random)
    rounded = expected + 0.4 * torch.randn(16, 100, generator=random)
    assert check_outputs("r", "int8", rounded, expected) < 1
    for wrong in (expected * 1.7, expected.roll(1, dims=1), expected.mean(0).expand(16, -1)):
        with pytest.raises(ExportError, match=r"r differs from eager by \d\.\d\d standard deviations; 0\.6"):
            check_outputs("r", "int8", wrong, expected)


def test_int8_agrees_by_best_class_and_near_ties_count():
    expected = torch.zeros(16, 100)
    expected[:, 7], expected[:, 8], expected[:, 9] = 2.55, 2.54, 2.0
    near, other = expected.clone(), expected.clone()
    near[:, 8], other[:, 9] = 2.56, 2.56  # a class one step below the best; one far below it
    assert check_outputs("r", "int8", near, expected) == 1
    assert check_outputs("r", "int8", other, expected) == 0
    with pytest.raises(ExportError, match="not finite"):
        check_outputs("r", "int8", expected / 0, expected)
    with pytest.raises(ExportError, match=r"returns \(16, 99\), eager \(16, 100\)"):
        check_outputs("r", "fp32", expected[:, 1:], expected)

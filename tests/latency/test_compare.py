"""Paired comparison of networks: what is asked of it, what it finds, what it keeps when something breaks."""

import logging
import os

import pytest
import torch
from torch import nn

import mnet.latency
from mnet.errors import ConfigError
from mnet.latency.comparison import COLUMNS, check, disturbances, measure, prepare
from mnet.latency.machine import pinned
from mnet.latency.paired import race
from mnet.latency.runtimes import ExportError, make_runtime


class Work(nn.Module):
    """So many layers, which take what the test's clock says."""

    def __init__(self, layers: int):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(96, 96) for _ in range(layers)))

    def forward(self, x):
        return self.layers(x).mean((1, 2))


def test_one_row_a_variant_and_twice_the_work_takes_twice_as_long(clock):
    nets = {"once": Work(20), "again": Work(20), "twice": Work(40)}
    frame = mnet.latency.compare(nets, baseline="once", runtime="eager", resolution=96, half_width=0.2, budget_s=20)
    assert tuple(frame.columns) == COLUMNS
    rows = frame.set_index("variant")
    assert list(rows.index) == list(nets)
    assert tuple(rows.loc["once", ["ratio", "low", "high", "stopped"]]) == (1, 1, 1, "baseline")
    assert rows.loc["twice", "ratio"] == pytest.approx(2, rel=0.1)
    assert rows.loc["twice", "low"] > rows.loc["again", "high"]
    assert set(rows["stopped"][1:]) == {"precise"}
    assert (frame["rounds"] >= 15).all()
    assert set(frame.attrs["table"]["kernels"])


def test_a_planted_slowdown_is_found_and_the_same_program_twice_is_not_called_different(clock):
    one = prepare(make_runtime("eager"), Work(20), 96)
    found = measure({"a": one, "b": one, "slow": one}, "a", half_width=0.02, budget_s=20, slowed={"slow": 5e-4})
    rows = found.table.set_index("variant")
    assert rows.loc["slow", "low"] > 1.02
    assert abs(rows.loc["b", "ratio"] - 1) < 0.05


def test_a_variant_that_fails_is_reported_and_the_others_are_kept(clock):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such kernel")

    nets = {"good": Work(5), "broken": Broken(), "better": Work(2)}
    frame = mnet.latency.compare(nets, baseline="good", resolution=96, half_width=0.5, budget_s=5).set_index("variant")
    assert frame.loc["broken", "stopped"].startswith("failed: eager cannot run it: RuntimeError: no such kernel")
    assert frame.loc["better", "high"] < 1
    without = mnet.latency.compare(nets, baseline="broken", resolution=96, half_width=0.5, budget_s=5)
    assert without["ratio"].isna().all()
    assert without.set_index("variant").loc["good", "median_ms"] > 0


def test_a_variant_that_fails_while_it_is_timed_leaves_the_race():
    calls = []

    def sometimes() -> float:
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("out of memory")
        return 1.0

    found = race({"a": lambda: 1.0, "b": lambda: 2.0, "c": sometimes}, "a", budget_s=0, min_rounds=20, forgiving=True)
    assert found.failed == {"c": "RuntimeError: out of memory"}
    assert found.ratio("b", "a").value == pytest.approx(2)
    assert len(found.times["b"]) >= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "goood"}, "unknown baseline 'goood'; one of good, other. Did you mean good"),
        ({"nets": {"good": Work(1)}}, "nothing to compare"),
        ({"runtime": "eagre"}, "unknown runtime 'eagre'.*Did you mean eager"),
        ({"threads": 999}, "threads must be 1 to .*, the cores of this process, not 999"),
        ({"half_width": 0}, "half_width must be above 0, not 0"),
        ({"resolution": {"good": 32}}, "no resolution for variant 'other'"),
    ],
)
def test_bad_input_is_one_error_before_anything_runs(change, message):
    class Never(nn.Module):
        def forward(self, x):
            pytest.fail("ran")

    call = {"nets": {"good": Never(), "other": Never()}, "baseline": "good"} | change
    with pytest.raises(ConfigError, match=message):
        mnet.latency.compare(**call)


def test_without_the_right_to_pin_it_measures_all_the_same_and_says_so(monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with caplog.at_level(logging.WARNING):
        frame = mnet.latency.compare({"a": Work(2), "b": Work(2)}, "a", resolution=96, half_width=0.9, budget_s=1)
    assert "not pinned to a core: not permitted" in frame.attrs["notes"]
    assert "not pinned" in caplog.text
    assert frame["ratio"].notna().all()


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system pins no process to cores: run this file on Linux"
)
def test_threads_are_pinned_while_measuring_and_free_afterwards():
    before = os.sched_getaffinity(0)
    with pinned(1) as refused:
        assert not refused
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == before


def test_a_busy_machine_drift_and_outliers_are_named():
    speeds = iter([1.0] * 12 + [1.4] * 12)
    found = race({"a": lambda: next(speeds, 1.4), "b": lambda: 1.0}, "a", budget_s=0, min_rounds=21, warmup=0)
    notes = disturbances(found, "a")
    assert any("longer at the end" in note for note in notes)
    assert not any("busy" in note for note in disturbances(type(found)(**{**vars(found), "others": 0.1}), "a"))
    assert any("keep 3.0 of" in note for note in disturbances(type(found)(**{**vars(found), "others": 3.0}), "a"))


def test_one_variant_that_is_left_alone_is_timed_without_a_ratio():
    one = prepare(make_runtime("eager"), Work(2), 96)
    found = measure({"b": one}, "a", {"a": "no such kernel"}, budget_s=1)
    rows = found.table.set_index("variant")
    assert rows.loc["b", "median_ms"] > 0
    assert rows.loc["b", "stopped"] == "no ratio: the baseline a failed"
    assert rows.loc["a", "stopped"] == "failed: no such kernel"


def test_int8_agrees_by_best_class_and_near_ties_count():
    wanted = torch.zeros(16, 100)
    wanted[:, 7], wanted[:, 8], wanted[:, 9] = 2.55, 2.54, 2.0
    assert check("r", "int8", wanted.roll(1, dims=1), wanted) == 1  # 8 is best there, a step below
    with pytest.raises(ExportError, match="agrees with eager's best class on 0% of 16 images only"):
        check("r", "int8", wanted.roll(2, dims=1), wanted)
    with pytest.raises(ExportError, match="not finite"):
        check("r", "int8", wanted / 0, wanted)
    with pytest.raises(ExportError, match=r"returns \(16, 99\), eager \(16, 100\)"):
        check("r", "fp32", wanted[:, 1:], wanted)

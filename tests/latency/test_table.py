"""A table of parts says what networks take that were never timed."""

import numpy as np
import pandas as pd
import pytest

import mnet
from mnet import ConfigError
from mnet.latency import table as module
from mnet.latency.table import LatencyTable, along, fitted, measure_table, read_latency_table, scaled, shapes_of
from mnet.search.proposals import resized

SEED = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)


def ideal(shares=((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))) -> LatencyTable:
    """Of a machine on which parts take what interpolation says, and a network 1.5 times their sum and 2 more."""
    rows = []
    for number, share in enumerate(shares):
        shapes = shapes_of(scaled(SEED, *share), 28)
        shapes["ms"] = [time_of(*one) for one in shapes[["expanded", "ends", "madds"]].itertuples(index=False)]
        whole = {"block": "whole", "sum_ms": shapes["ms"].sum(), "ms": 2 + 1.5 * shapes["ms"].sum()}
        rows.append(pd.concat([shapes, pd.DataFrame([whole])]).assign(network=number))
    return LatencyTable(pd.concat(rows, ignore_index=True).assign(runtime="ideal", resolution=28, device="none"))


def time_of(expanded: int, ends: int, madds: int) -> float:
    return 1 + 1e-3 * expanded + 1e-2 * ends + 1e-5 * expanded * ends if expanded else 1 + 1e-6 * madds


@pytest.mark.parametrize("space", ["expansion.9", "expansion.1", "bottleneck.3", "bottleneck.8"])
def test_between_measurements_and_beyond_a_network_is_the_sum_of_its_parts(space):
    table = ideal()
    for channels in (8, 72, 400):
        network = resized(SEED, space, channels)
        times = [time_of(*one[1:]) for one in shapes_of(network, 28).itertuples(index=False)]
        assert table(network) == pytest.approx(2 + 1.5 * sum(times), rel=1e-6)
    assert table.errors == pytest.approx(0, abs=1e-9)


def test_a_table_is_kept_and_knows_how_it_was_measured_and_of_what(tmp_path):
    table = ideal()
    table.save(tmp_path / "table.csv")
    again = read_latency_table(tmp_path / "table.csv")
    assert again(SEED) == table(SEED)  # to the last bit
    assert again.of(runtime="ideal", resolution=28)
    assert not again.of(device="another")
    with pytest.raises(ConfigError, match="other parts"):
        again(mnet.describe("mobilenet_v2"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_latency_table(tmp_path / "none.csv")


def test_lines():
    assert along([1, 2, 4], [10, 20, 60], 3) == 40
    assert along([1, 2, 4], [10, 20, 60], 0) == 0
    assert along([1, 2, 4], [10, 20, 60], 5) == 80
    assert along([3, 3], [1, 2], 9) == 1.5
    assert fitted(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 9.0])) == pytest.approx((2.0, 3.0))


def test_parts_are_timed_once_each_and_predict_whole_networks(monkeypatch):
    monkeypatch.setattr(module, "EXPANSIONS", (1.0, 0.5, 0.25))
    monkeypatch.setattr(module, "BOTTLENECKS", (1.0,))
    network = mnet.describe("mobilenet_v3_small", num_classes=10, width=0.5)
    done = []
    table = measure_table(network, runtime="eager", resolution=32, budget_s=0.1, told=lambda *told: done.append(told))
    assert done[-1][0] == done[-1][1] < 3 * 14  # identical blocks, and ends that do not change, share a measurement
    assert len(table.parts) == 14
    assert len(table.wholes) == 3
    assert (table.rows["ms"] > 0).all()
    assert np.isfinite(table.errors).all()
    assert len(table.errors) == 3

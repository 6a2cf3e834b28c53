"""A table of parts predicts the latency of networks that were never timed."""

import numpy as np
import pandas as pd
import pytest

import mnet
from mnet import ConfigError
from mnet.latency import table as module
from mnet.latency.table import (
    LatencyTable,
    fit_line,
    interpolate,
    measure_table,
    part_shapes,
    read_latency_table,
    scale_channels,
)
from mnet.search.proposals import resized

START = mnet.describe("mobilenet_v3_small", num_classes=10, in_channels=1)


def ideal(shares=((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5))) -> LatencyTable:
    """A table whose parts take exactly the interpolated times, and networks 1.5 times their sum plus 2."""
    rows = []
    for number, share in enumerate(shares):
        shapes = part_shapes(scale_channels(START, *share), 28)
        shapes["ms"] = [time_of(*shape) for shape in shapes[["expanded", "ends", "madds"]].itertuples(index=False)]
        whole = {"block": "whole", "sum_ms": shapes["ms"].sum(), "ms": 2 + 1.5 * shapes["ms"].sum()}
        rows.append(pd.concat([shapes, pd.DataFrame([whole])]).assign(network=number))
    return LatencyTable(pd.concat(rows, ignore_index=True).assign(runtime="ideal", resolution=28, device="none"))


def time_of(expanded: int, ends: int, madds: int) -> float:
    return 1 + 1e-3 * expanded + 1e-2 * ends + 1e-5 * expanded * ends if expanded else 1 + 1e-6 * madds


@pytest.mark.parametrize("space", ["expansion.9", "expansion.1", "bottleneck.3", "bottleneck.8"])
def test_interpolated_and_extrapolated_networks_are_the_sum_of_their_parts(space):
    table = ideal()
    for channels in (8, 72, 400):
        network = resized(START, space, channels)
        times = [time_of(*shape[1:]) for shape in part_shapes(network, 28).itertuples(index=False)]
        assert table(network) == pytest.approx(2 + 1.5 * sum(times), rel=1e-6)
    assert table.errors == pytest.approx(0, abs=1e-9)


def test_a_saved_table_keeps_its_rows_and_conditions(tmp_path):
    table = ideal()
    table.save(tmp_path / "table.csv")
    saved = read_latency_table(tmp_path / "table.csv")
    assert saved(START) == table(START)  # to the last bit
    assert saved.measured_with(runtime="ideal", resolution=28)
    assert not saved.measured_with(device="another")
    with pytest.raises(ConfigError, match="different parts"):
        saved(mnet.describe("mobilenet_v2"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_latency_table(tmp_path / "none.csv")


def test_interpolation_is_linear_and_the_fit_is_a_line():
    assert interpolate([1, 2, 4], [10, 20, 60], 3) == 40
    assert interpolate([1, 2, 4], [10, 20, 60], 0) == 0
    assert interpolate([1, 2, 4], [10, 20, 60], 5) == 80
    assert interpolate([3, 3], [1, 2], 9) == 1.5
    assert fit_line(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 9.0])) == pytest.approx((2.0, 3.0))


@pytest.mark.usefixtures("clock")
def test_equal_parts_are_timed_once_and_predict_whole_networks(monkeypatch):
    monkeypatch.setattr(module, "EXPANSIONS", (1.0, 0.5, 0.25))
    monkeypatch.setattr(module, "BOTTLENECKS", (1.0,))
    network = mnet.describe("mobilenet_v3_small", num_classes=10, width=0.5)
    progress = []
    table = measure_table(
        network, runtime="eager", resolution=32, budget_s=0.1, report_progress=lambda *counts: progress.append(counts)
    )
    assert progress[-1][0] == progress[-1][1] < 3 * 14  # equal blocks share a measurement
    assert len(table.parts) == 14
    assert len(table.wholes) == 3
    assert (table.rows["ms"] > 0).all()
    assert np.isfinite(table.errors).all()
    assert len(table.errors) == 3

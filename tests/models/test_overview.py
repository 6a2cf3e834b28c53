"""Networks laid out as the papers print them, and what toggles cost."""

import math

import pytest

import mnet
from mnet import ConfigError
from mnet.models.cost import cost
from mnet.models.overview import (
    COSTS,
    rows_table,
    toggle_costs,
    toggles_table,
    values_of,
)
from mnet.models.toggles import Toggles
from mnet.settings import hints


def test_v3_large_reads_as_table_1_of_its_paper():
    rows = rows_table(mnet.describe("mobilenet_v3_large")).to_numpy().tolist()
    assert rows[0] == ["224² × 3", "conv2d, 3x3", "-", 16, "-", "HS", 2]
    assert rows[4] == ["56² × 24", "bneck, 5x5", "72", 40, "✓", "RE", 2]
    assert rows[13] == ["14² × 112", "bneck, 5x5", "672", 160, "✓", "HS", 2]
    assert rows[16:] == [
        ["7² × 160", "conv2d, 1x1", "-", 960, "-", "HS", 1],
        ["7² × 960", "pool, 7x7", "-", 960, "-", "-", 1],
        ["1² × 960", "conv2d, 1x1, NBN", "-", 1280, "-", "HS", 1],
        ["1² × 1280", "conv2d, 1x1, NBN", "-", 1000, "-", "-", 1],
    ]
    assert len(rows) == 20


def test_v1_pools_without_a_1x1_before_and_ends_at_1024_channels():
    rows = rows_table(mnet.describe("mobilenet_v1")).to_numpy().tolist()
    assert rows[1] == ["112² × 32", "dw, 3x3", "32", 64, "-", "RE", 1]
    assert rows[-2:] == [
        ["7² × 1024", "pool, 7x7", "-", 1024, "-", "-", 1],
        ["1² × 1024", "conv2d, 1x1, NBN", "-", 1000, "-", "-", 1],
    ]


@pytest.mark.parametrize("model", mnet.list_models())
@pytest.mark.parametrize("resolution", [33, 224])
@pytest.mark.parametrize("toggles", [{}, {"output_stride": 16}, {"separable": False}], ids=str)
def test_sizes_and_channels_equal_those_of_the_cost(model, resolution, toggles):
    network = mnet.describe(model, **toggles)
    rows, layers = rows_table(network, resolution), cost(network, resolution).layers
    projections = layers[layers["layer"].str.endswith(".project.conv")]
    after = rows["Input"].iloc[2 : 2 + len(projections)]
    expected = [f"{row.resolution}² × {row.out_channels}" for row in projections.itertuples()]
    assert list(after) == expected
    assert rows["Operator"].str.contains("dilated").any() == ("output_stride" in toggles)


def test_a_resolution_of_zero_is_refused():
    with pytest.raises(ConfigError, match="resolution"):
        rows_table(mnet.describe("mobilenet_v1"), 0)


def test_every_toggle_is_listed_with_its_values_and_source():
    table = toggles_table().set_index("toggle")
    assert list(table.index) == list(hints(Toggles))
    assert table.loc["bottleneck", "values"] == "linear, relu, relu6"
    assert table.loc["se", "values"] == "true, false"
    assert "V2, figure 6a" in table.loc["bottleneck", "what"]
    assert (table["what"] != "").all()


def test_every_toggle_has_values_to_try():
    assert all(values_of(name) for name in hints(Toggles))
    with pytest.raises(ConfigError, match="Did you mean kernel"):
        values_of("kernle")


def test_costs_are_percent_of_the_papers_network():
    """V1, table 4: 4866 instead of 569 million multiply-adds, 29.3 instead of 4.2 million parameters."""
    full = toggle_costs("mobilenet_v1").set_index(["toggle", "value"]).loc[("separable", "false")]
    assert full["madds"] == pytest.approx(100 * (4866 / 569 - 1), rel=0.001)
    assert full["params"] == pytest.approx(100 * (29.3 / 4.2 - 1), rel=0.02)


def test_refused_values_have_a_reason_and_the_papers_values_are_marked():
    costs = toggle_costs("mobilenet_v3_large", 96).set_index(["toggle", "value"])
    refused = costs.loc[("shallow", "true")]
    assert "five 14x14x512" in refused["note"]
    assert math.isnan(refused["madds"])
    assert costs.loc[("stem_channels", "16"), "note"] == "as in the paper"
    assert (costs[costs["note"] == "as in the paper"][list(COSTS)] == 0).all(axis=None)
    assert costs.loc[("activation", "relu"), "note"] == ""
    assert (costs.loc["activation"][list(COSTS)] == 0).all(axis=None)

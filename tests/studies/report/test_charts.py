"""Charts: what is drawn where, and the same chart as part of a page and as a file."""

import re
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from PIL import Image

import mnet
from mnet import ConfigError, latency
from mnet.models.cost import cost
from mnet.models.overview import COSTS, toggle_costs
from mnet.studies.claims.papers import published_points, timed_points, trained_points
from mnet.studies.report.charts import colours
from mnet.studies.report.charts.claims import TOPICS, Topic, claims_forest
from mnet.studies.report.charts.colours import MODELS, NETWORKS, TEXT, colour, enumerated
from mnet.studies.report.charts.diagnosis import deaths_chart, inside_chart, spiral_chart
from mnet.studies.report.charts.export import page_spec, save_png, save_svg
from mnet.studies.report.charts.family import choices_chart, depth_chart, kinds_chart, toggle_costs_chart
from mnet.studies.report.charts.latency import blocks_chart, frontier_chart, latency_chart
from mnet.studies.report.charts.papers import madds_chart, phone_chart
from mnet.studies.report.charts.scatter import undominated
from mnet.studies.report.charts.search import search_chart
from mnet.studies.report.charts.study import accuracy_chart, difference_chart, effects_chart, study_chart
from mnet.studies.results.archive import read_claims
from mnet.studies.runs.store import PUBLISHED
from mnet.tasks import TASKS

ROOT = Path(__file__).parents[3]


SUMMARY = pd.DataFrame(
    [
        {"cell": "paper", "n": 3, "top1_mean": 89.0, "top1_half_width": 0.4},
        {"cell": "relu", "n": 3, "top1_mean": 88.2, "top1_half_width": 0.6}
        | {"delta": -0.8, "low": -1.4, "high": -0.2, "verdict": "down"},
        {"cell": "swish", "n": 3, "top1_mean": 89.2, "top1_half_width": 0.5}
        | {"delta": 0.2, "low": -0.3, "high": 0.7, "verdict": "undecided"},
    ]
)
RUNS = pd.DataFrame(
    [
        {"run_id": f"{cell}{seed}", "cell": cell, "model": "mobilenet_v3_small", "seed": seed, "top1": mean + seed / 5}
        for cell, mean in (("paper", 88.8), ("relu", 88.0), ("swish", 89.0))
        for seed in range(3)
    ]
)
LATENCY = pd.DataFrame(
    [
        {"variant": "paper", "runtime": runtime, "median_ms": 1.0, "ratio": 1.0, "low": 1.0, "high": 1.0}
        for runtime in ("litert", "eager")
    ]
    + [
        {"variant": "relu", "runtime": "litert", "median_ms": 1.0, "ratio": 0.979, "low": 0.972, "high": 0.987},
        {"variant": "relu", "runtime": "eager", "median_ms": 1.1, "ratio": 1.1, "low": 1.0, "high": 1.2},
        {"variant": "swish", "runtime": "eager"},  # its export failed
    ]
)
FRONTIER = SUMMARY.assign(
    **{"runtime": "executorch", "device": "a server", "params": 1_500_000, "madds": 2_000_000, "median_ms": 1.0},
    **{"ratio": [1.0, 0.9, 1.2], "ratio_low": [1.0, 0.8, 1.1], "ratio_high": [1.0, 1.0, 1.3]},
)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The published results and nothing else."""
    folder = tmp_path_factory.mktemp("results")
    (folder / PUBLISHED).symlink_to(ROOT / "results" / PUBLISHED, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return published_points(ROOT / "experiments/claims.yaml")


def spec(chart: alt.TopLevelMixin) -> dict:
    """The chart's specification, valid by Vega-Lite's schema, with the data of each mark in place."""
    with alt.data_transformers.enable(consolidate_datasets=False):
        return chart.to_dict()


def panels(chart: alt.ConcatChart) -> list[dict]:
    return spec(chart)["concat"]


def marks(panel: dict, kind: str) -> list[dict]:
    """The rows that a panel draws as marks of a kind."""
    layers = [layer for layer in panel["layer"] if layer["mark"]["type"] == kind]
    return [row for layer in layers for row in layer.get("data", panel.get("data"))["values"]]


def domain(panel: dict, channel: str) -> list[float]:
    return next(
        layer["encoding"][channel]["scale"]["domain"]
        for layer in panel["layer"]
        if "domain" in layer["encoding"].get(channel, {}).get("scale", {}) and layer["mark"]["type"] == "point"
    )


def titles(panel: dict) -> str:
    return str([channel.get("title") for layer in panel["layer"] for channel in layer["encoding"].values()])


def test_a_study_shows_every_seed_and_each_mean_with_its_interval():
    chart = spec(accuracy_chart(SUMMARY, RUNS))
    points = marks(chart, "point")
    assert sorted(row["x"] for row in points if "low" not in row) == sorted(RUNS["top1"])
    means = {row["series"]: (row["low"], row["x"], row["high"]) for row in points if "low" in row}
    assert means["relu"] == pytest.approx((87.6, 88.2, 88.8))
    assert list(means) == ["paper", "relu", "swish"]
    assert next(row["label"] for row in marks(chart, "text")) == "paper (n=3)"
    assert "test top-1 (%)" in titles(chart) and "95% t interval" in titles(chart)


def test_differences_leave_out_the_baseline_and_show_zero():
    chart = spec(difference_chart(SUMMARY))
    assert [row["x"] for row in marks(chart, "point")] == [-0.8, 0.2]
    low, high = domain(spec(difference_chart(SUMMARY.head(2))), "x")
    assert low < 0 < high
    assert difference_chart(SUMMARY.assign(delta=float("nan"))) is None


def test_effects_are_named_by_the_metric_of_their_task():
    row = {"variant": "paper", "value": "int8", "against": "fp32", "n": 3, "delta": -0.1, "low": -0.3, "high": 0.1}
    others = {"variant": "relu"}, {"value": "int4"}, {"value": "int4", "against": "int8"}
    effects = pd.DataFrame([{**row, "verdict": "flat", **other} for other in ({}, *others)])
    assert "mAP minus that of fp32" in titles(spec(effects_chart(effects, TASKS["detection"].headline)))
    chart = spec(effects_chart(effects, TASKS["classification"].headline))
    assert "top-1 minus that of fp32" in titles(chart)
    assert len(marks(chart, "point")) == 3


def test_a_variant_has_one_colour_in_every_chart():
    layers = {"layer": "stem", "position": 0, "dead": 0.1, "least": 0.0, "silent": 0.2}
    inside = pd.DataFrame(
        {"cell": SUMMARY["cell"], "seed": 0, **layers, "rank_before": 8.0, "rank_after": 4.0, "largest": 1.0}
    )
    charts = [*panels(study_chart(SUMMARY, RUNS, "")), *panels(inside_chart(inside, ""))]
    styles = {
        tuple(zip(channel["scale"]["domain"], channel["scale"]["range"], strict=True))
        for chart in charts
        for layer in chart["layer"]
        if "scale" in (channel := layer["encoding"].get("color", {}))
    }
    assert len(styles) == 1
    assert len(set(enumerated([str(i) for i in range(12)]).values())) == 12


def test_a_cell_that_is_called_by_its_model_has_the_colour_of_the_network_in_the_papers_panel():
    for model, network in MODELS.items():
        assert colour(f"model={model} target_madds=1.57") == NETWORKS[network][0]
    assert colour("precision=int8, model=mobilenet_v2") == NETWORKS["V2"][0]
    assert colour("model=mobilenet_v1.yaml") != NETWORKS["V1"][0]  # somebody's own file


def test_latencies_are_ratios_with_intervals_by_runtime():
    chart = spec(latency_chart(LATENCY))
    points = marks(chart, "point")
    assert sorted(row["x"] for row in points) == [0.979, 1.0, 1.0, 1.1]
    assert {row["series"] for row in points} == {"litert", "eager"}
    labels = [row["label"] for row in marks(chart, "text") if "x" in row]
    assert sorted(labels) == ["", "", "0.979", "1.100"]  # no label at the baseline
    assert latency_chart(LATENCY.assign(ratio=float("nan"))) is None


def test_every_runtime_has_a_style_of_its_own():
    assert colours.RUNTIMES.keys() == latency.RUNTIMES.keys()
    assert len(set(colours.RUNTIMES.values())) == len(latency.RUNTIMES)


def test_a_frontier_has_a_panel_a_runtime_and_joins_what_none_beats():
    slower = FRONTIER.tail(1).assign(cell="hswish", ratio=1.1, top1_mean=88.0)
    drawn = panels(frontier_chart(pd.concat([FRONTIER, slower, FRONTIER.assign(runtime="eager")]), "x"))
    assert [panel["title"] for panel in drawn] == ["executorch", "eager"]
    assert [row["y"] for row in marks(drawn[0], "line")] == [88.2, 89.0, 89.2]


def test_what_no_other_beats_is_a_staircase():
    points = [{"x": x, "y": y} for x, y in ((1, 5), (2, 4), (3, 9), (0, 1), (3, 10))]
    assert [(point["x"], point["y"]) for point in undominated(points)] == [(0, 1), (1, 5), (3, 10)]


def test_blocks_have_a_bar_a_measure_and_say_what_was_not_delegated():
    frame = pd.DataFrame(
        {"block": ["stem", "head"], "kind": ["3x3 relu", "pool"], "resolution": [8, 1], "params": [1, 3]}
        | {"madds": [30, 10], "ms": [0.3, 0.1], "low": [0.2, 0.1], "high": [0.4, 0.1], "undelegated": [0, 2]}
    )
    chart = spec(blocks_chart(frame))
    shares = {(row["series"], row["x"]) for row in marks(chart, "bar")}
    assert {("latency", 75), ("multiply-adds", 75), ("parameters", 25)} < {(name, round(x)) for name, x in shares}
    labels = [row["label"] for row in marks(chart, "text")]
    assert labels == ["stem · 3x3 relu", "head · pool", "0.30 ms", "0.10 ms, 2 not delegated"]
    counted = spec(blocks_chart(frame.drop(columns=["ms", "low", "high", "undelegated"])))
    assert len(marks(counted, "bar")) == 4


def test_toggles_have_a_row_for_each_that_changes_a_cost():
    drawn = panels(toggle_costs_chart(toggle_costs("mobilenet_v3_small", 96), "costs"))
    assert len(drawn) == len(COSTS)
    rows = {row["name"]: row for row in marks(drawn[1], "bar")}
    assert rows["width = 0.5"]["x"] < 1 and rows["width = 0.5"]["label"].startswith("-")
    assert "se = false" in rows and "activation = relu" not in rows


def test_bars_by_kind_add_up_to_all():
    family = {name: mnet.describe(name) for name in mnet.list_models()}
    for panel in panels(kinds_chart(family, "kinds")):
        bars = pd.DataFrame(marks(panel, "bar"))
        assert bars.groupby("name")["end"].max().tolist() == pytest.approx([100] * len(family))


def test_lines_along_the_depth_add_up_to_the_cost():
    networks = {"paper": mnet.describe("mobilenet_v3_large")}
    networks["full"] = mnet.describe("mobilenet_v3_large", last_stage="full")
    panel = panels(depth_chart(networks, "depth"))[1]
    points = pd.DataFrame(marks(panel, "point"))
    for name, network in networks.items():
        rows = points[points["series"] == name]
        assert rows["y"].sum() == pytest.approx(cost(network).madds / 1e6)
    order = next(layer["encoding"]["x"]["sort"] for layer in panel["layer"])
    assert order[-3:] == ["15", "tail", "head"]


def test_squares_show_non_linearity_kernel_and_bent_projections():
    networks = {name: mnet.describe(name) for name in ("mobilenet_v1", "mobilenet_v3_small")}
    squares = marks(spec(choices_chart(networks, "rows")), "rect")
    assert len(squares) == 1 + 13 + 1 + 11 + 2
    assert sum(row["label"] == "5 SE" for row in squares) == 8
    assert sum(row["frame"] == TEXT for row in squares) == 13  # V1's blocks


def test_ours_and_the_papers_never_share_an_axis(results, published):
    trained = trained_points(results, ["versions", "width"])
    trained["top1"] += 100 - trained["top1"].min()  # above all that papers print
    left, right = panels(madds_chart(published, trained, "madds"))
    assert domain(left, "y")[1] < published["top1"].max() + 5 < domain(right, "y")[0]
    assert len(marks(right, "point")) == len(trained)
    assert {row["label"] for row in marks(right, "point") if "label" in row} - {""} == {"versions", "width"}


def test_the_phone_and_this_machine_are_drawn_with_the_same_accuracies(results, published):
    timed = timed_points(published, results, ["versions", "width"], "executorch")
    left, right = panels(phone_chart(published, timed, "executorch", "phone"))
    assert domain(left, "y") == domain(right, "y")
    networks = [{row["series"] for row in marks(panel, "point")} for panel in (left, right)]
    assert "V1" not in networks[0]  # no paper prints its milliseconds
    assert "V1" in networks[1]


@pytest.mark.parametrize("name", ["netadapt-mobilenet_v3_small", "blocks-mobilenet_v3_small"])
def test_a_search_shows_what_was_tried_and_what_came_of_it(results, name):
    left, right = panels(search_chart(results, name))
    assert len(marks(left, "point")) > 50
    assert len(marks(right, "bar") + marks(right, "point")) >= 10
    with pytest.raises(ConfigError, match=f"Did you mean {name}"):
        search_chart(results, f"{name}l")


def test_deaths_have_the_range_of_seeds_and_layers_at_the_end():
    deaths = pd.DataFrame(
        {"cell": cell, "seed": seed, "step": step, "layer": layer, "dead": dead + seed + step}
        for cell, dead in (("paper", 1), ("relu", 20))
        for seed in (0, 1)
        for step in (10, 20)
        for layer in ("all", "blocks.0", "blocks.1")
    )
    left, right = panels(deaths_chart(deaths, "deaths"))
    assert [(row["low"], row["high"]) for row in marks(left, "point")] == [(11, 12), (21, 22), (30, 31), (40, 41)]
    assert [(row["x"], row["y"]) for row in marks(right, "point")] == [(1, 21.5), (2, 21.5), (1, 40.5), (2, 40.5)]


def test_a_spiral_comes_back_in_a_panel_a_dimension():
    drawn = panels(spiral_chart([2, 30]))
    assert [panel["title"].split(",")[0] for panel in drawn] == ["the spiral", "2 dimensions", "30 dimensions"]


def test_claims_stand_beside_the_papers_numbers_in_the_colour_of_their_verdict():
    claim = {"id": "time", "statement": "is faster", "ours": 0.7, "low": 0.69, "high": 0.71, "verdict": "weaker"}
    claim |= {"paper_value": 0.66}
    topics = Topic("one", "points"), Topic("another", None, "time")
    claims = pd.DataFrame([{**claim, "id": "points"}, claim, {**claim, "ours": 0.9, "verdict": "absent"}])
    accuracy, ratios = panels(claims_forest(claims, topics))
    points = {row["series"]: (row["x"], row["y"]) for row in marks(ratios, "point")}
    (paper,) = points.keys() - {"weaker"}  # the second row of a claim is not its headline
    assert (points["weaker"][0], points[paper][0], paper.startswith("the p")) == (0.7, 0.66, True)
    assert [row["label"] for row in marks(accuracy, "text")] == ["one", "another"]
    assert marks(ratios, "text") == []
    assert {y for _, y in points.values()} == {marks(accuracy, "text")[1]["y"]}


def test_every_topic_is_among_the_published_claims(results):
    assert {name for topic in TOPICS for name in topic[1:] if name} <= set(read_claims(results)["id"])


def test_a_chart_takes_the_text_colour_of_its_page_and_files_have_their_own(tmp_path):
    chart = difference_chart(SUMMARY)
    title, page = page_spec(chart)
    assert title == "Difference to the baseline" and "title" not in page
    assert page["width"] == "container" and page["config"]["background"] == "transparent"
    assert "currentColor" in str(page) and TEXT not in str(page)
    save_png(chart, tmp_path / "chart.png", scale=1)
    image = Image.open(tmp_path / "chart.png").convert("RGB")
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert min(map(sum, image.getdata())) < 200  # text is dark
    for dark in (False, True):
        save_svg(chart, tmp_path / "chart.svg", dark=dark)
        content = (tmp_path / "chart.svg").read_text()
        assert (TEXT in content) == (not dark)
        assert not re.search(r'<rect[^>]*fill="white"', content)

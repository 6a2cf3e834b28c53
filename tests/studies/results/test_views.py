"""Tables as a reader sees them, from the published results."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mnet import ConfigError
from mnet.studies.report.charts.latency import latency_chart
from mnet.studies.results.archive import study_table
from mnet.studies.results.frames import effects_of, latency_of, reading, summary_of
from mnet.studies.results.table_view import build_table, join_tables, number_column, text_column
from mnet.studies.results.views import summary_table
from mnet.studies.runs.store import LATENCY, PUBLISHED

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    (folder / PUBLISHED).symlink_to(RESULTS / PUBLISHED, target_is_directory=True)
    return folder


def test_a_summary_rounds_and_writes_intervals_out(root):
    table = summary_of(root, "bottleneck")
    raw = pd.read_csv(RESULTS / PUBLISHED / "bottleneck/summary.csv").set_index("cell")
    assert table["difference"].iloc[0] == "baseline"
    for cell, row in raw.iloc[1:].iterrows():
        assert table.loc[cell, "difference"] == f"{row['delta']:+.2f}"
        assert table.loc[cell, "95% interval"] == f"[{row['low']:+.2f}, {row['high']:+.2f}]"
        assert table.loc[cell, "top-1 %"] == f"{row['top1_mean']:.2f}"
        assert table.loc[cell, "half width"] == f"{row['top1_half_width']:.2f}"
        assert table.loc[cell, "verdict"] == row["verdict"]


def test_tables_of_the_folder_come_before_published_ones(tmp_path):
    for study in ("se", "stem"):
        shutil.copytree(RESULTS / PUBLISHED / study, tmp_path / PUBLISHED / study)
    shutil.copytree(RESULTS / PUBLISHED / "se", tmp_path / "se")
    table = reading(tmp_path, "se", "stem")
    assert list(table["numbers"]) == ["own", "published"]
    assert set(table["model"]) == {"mobilenet_v3_small"}
    assert table["seed"].iloc[0].startswith("0 to ")
    assert "executorch" in reading(tmp_path, "se", name=LATENCY)["runtime"].iloc[0]


def test_effects_are_within_each_variant(root):
    raw = pd.read_csv(RESULTS / PUBLISHED / "quantization/effects.csv")
    raw = raw[(raw["value"] == "int8") & (raw["against"] == "fp32")]
    table = effects_of(root, "quantization", "int8", "fp32")
    assert list(table.index) == list(raw["variant"])
    assert list(table["difference"]) == [f"{delta:+.2f}" for delta in raw["delta"]]
    assert table["beyond the first"].iloc[0] == ""
    with pytest.raises(ConfigError, match="int8 - fp32"):
        effects_of(root, "quantization", "int8", "fp16")


def test_latencies_of_two_machines_are_not_shown_together(root, tmp_path):
    table = study_table(root, "activation", LATENCY)
    again = table[table["runtime"] == "litert"].assign(device="another", ratio=2.0, low=2.0, high=2.0)
    (tmp_path / "activation").mkdir()
    pd.concat([table, again.iloc[:2]]).to_csv(tmp_path / "activation" / LATENCY, index=False)
    shown = latency_of(tmp_path, "activation")
    assert [text for text in shown["litert"] if text] == ["2.000", "2.000"]
    whole = latency_of(root, "activation")
    assert shown["executorch"].equals(whole["executorch"].loc[shown.index])
    chart = latency_chart(study_table(tmp_path, "activation", LATENCY)).to_dict()
    texts = [row["text"] for rows in chart["datasets"].values() for row in rows if " on litert" in row.get("text", "")]
    assert len(set(texts)) == 2


def test_latencies_are_ratios_by_runtime(root):
    raw = pd.read_csv(RESULTS / PUBLISHED / "activation/latency.csv")
    table = latency_of(root, "activation")
    assert list(table.columns) == list(dict.fromkeys(raw["runtime"]))
    assert (table.iloc[0] == "1.000").all()
    row = raw[(raw["variant"] == "relu") & (raw["runtime"] == "executorch")].iloc[0]
    assert table.loc["relu", "executorch"] == f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    in_bits = latency_of(root, "quantization", precision="int8")
    assert in_bits.index.str.startswith("precision=int8").all()
    with pytest.raises(ConfigError, match="int8"):
        latency_of(root, "activation", precision="int8")


def test_a_summary_marks_the_baseline_failed_cells_and_cells_with_its_network():
    rows = {"cell": ["paper", "relu", "se", "same", "one seed"], "n": [3, 3, 0, 3, 1]}
    differences = {"delta": [None, -0.5, None, 0.0, 0.25], "low": [None, -0.9, None, 0.0, None]}
    more = {"high": [None, -0.1, None, 0.0, None], "verdict": [None, "down", "", "flat", None], "top1_mean": 90.0}
    runs = {"cell": ["paper", "relu", "same"], "run_id": ["a", "b", "a"], "top1": 90.0, "top5": [98, 99, 98]}
    summary = pd.DataFrame({**rows, **differences, **more})
    table = summary_table(summary, pd.DataFrame(runs)).frame("cell")
    assert list(table["difference"]) == ["baseline", "-0.50", "", "0", "+0.25"]
    assert list(table["95% interval"]) == ["", "[-0.90, -0.10]", "", "same network", "needs 2 seeds"]
    assert list(table["verdict"]) == ["", "down", "failed", "", ""]
    assert list(table["top-5 %"]) == ["98.00", "99.00", "", "98.00", ""]


def test_columns_are_selected_by_title_and_empty_ones_left_out():
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1.5, None], "c": [None, None]})
    table = build_table("", [text_column("a"), number_column("b", "B"), number_column("c")], frame)
    assert list(table.without_empty_columns().columns) == ["a", "B"]
    assert table.select("B", "a").texts() == [["1.50", "x"], ["", "y"]]
    assert [cell.value for cell in table.records[0].cells] == [None, 1.5, None]
    assert join_tables([table, table]).frame("a")["B"].tolist() == ["1.50", ""] * 2
    with pytest.raises(ConfigError, match="unknown column 'b'"):
        table.select("b")

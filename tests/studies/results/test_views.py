"""Tables as a reader sees them."""

from pathlib import Path

import pandas as pd
import pytest

from mnet import ConfigError
from mnet.studies.report.charts.latency import latency_chart
from mnet.studies.results.archive import study_table
from mnet.studies.results.frames import effects_of, latency_of, reading, summary_of
from mnet.studies.results.table_view import build_table, join_tables, number_column, text_column
from mnet.studies.results.views import summary_table
from mnet.studies.runs.store import EFFECTS, LATENCY, PUBLISHED, RUNS, SUMMARY

Rows = list[dict[str, object]]


def write(folder: Path, name: str, rows: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / name, index=False)


def runs(study: str, seeds: int) -> Rows:
    run = {"study": study, "cell": "paper", "model": "mobilenet_v3_small", "dataset": "fashion_mnist"}
    run |= {"resolution": 28, "epochs": 2, "batch_size": 96, "lr": 0.1}
    return [{**run, "run_id": f"r{seed}", "seed": seed} for seed in range(seeds)]


def timed(variant: str, runtime: str, ratio: float, low: float, high: float, **more: object) -> dict[str, object]:
    row = {"variant": variant, "runtime": runtime, "stopped": "precise", "median_ms": 3.0, "threads": 1, "batch": 1}
    return {**row, "precision": "fp32", "device": "a server", "ratio": ratio, "low": low, "high": high, **more}


TIMES = [
    *(timed("paper", "executorch", 1, 1, 1), timed("relu", "executorch", 0.97942, 0.97218, 0.98669)),
    *(timed("paper", "litert", 1, 1, 1), timed("relu", "litert", 0.9, 0.88888, 0.91234)),
]
IN_INT8 = {"precision": "int8", "to_fp32": 0.5, "to_fp32_low": 0.45, "to_fp32_high": 0.5555}


def test_a_summary_rounds_and_writes_intervals_out(tmp_path):
    cell = {"study": "bottleneck", "n": 5, "params": 408650, "madds": 1038864, "top1_sd": 0.4}
    linear = {**cell, "cell": "linear", "top1_mean": 87.046, "top1_half_width": 0.4569}
    relu = {**cell, "cell": "relu", "top1_mean": 84.488, "top1_half_width": 0.447}
    relu |= {"delta": -2.562, "low": -3.3307, "high": -1.7933, "p": 6e-05, "verdict": "down"}
    write(tmp_path / "bottleneck", SUMMARY, [linear, relu])
    table = summary_of(tmp_path, "bottleneck")
    assert list(table["difference"]) == ["baseline", "-2.56"]
    assert list(table["95% interval"]) == ["", "[-3.33, -1.79]"]
    assert list(table["top-1 %"]) == ["87.05", "84.49"]
    assert list(table["half width"]) == ["0.46", "0.45"]
    assert list(table["verdict"]) == ["", "down"]


def test_tables_of_the_folder_come_before_published_ones(tmp_path):
    write(tmp_path / PUBLISHED / "se", RUNS, runs("se", 4))
    write(tmp_path / PUBLISHED / "stem", RUNS, runs("stem", 2))
    write(tmp_path / "se", RUNS, runs("se", 3))
    table = reading(tmp_path, "se", "stem")
    assert list(table["numbers"]) == ["own", "published"]
    assert list(table["rows"]) == [3, 2]
    assert list(table["seed"]) == ["0 to 2", "0, 1"]
    assert set(table["model"]) == {"mobilenet_v3_small"}
    write(tmp_path / PUBLISHED / "se", LATENCY, TIMES)
    assert reading(tmp_path, "se", name=LATENCY)["runtime"].tolist() == ["executorch, litert"]


def test_effects_are_within_each_variant(tmp_path):
    effect = {"study": "quantization", "value": "int8", "against": "fp32", "n": 5, "p": 1.0, "verdict": "flat"}
    first = {**effect, "variant": "v3", "delta": 0.008, "low": -0.1338, "high": 0.1498}
    second = {**effect, "variant": "v2", "delta": -1.25, "low": -1.5, "high": -1.0, "verdict": "down"}
    second |= {"beyond": -1.258, "beyond_low": -1.6, "beyond_high": -0.9, "beyond_p": 0.01}
    write(tmp_path / "quantization", EFFECTS, [first, second, {**second, "value": "qat"}])
    table = effects_of(tmp_path, "quantization", "int8", "fp32")
    assert list(table.index) == ["v3", "v2"]
    assert list(table["difference"]) == ["+0.01", "-1.25"]
    assert list(table["beyond the first"]) == ["", "-1.26"]
    assert list(table["its 95% interval"]) == ["", "[-1.60, -0.90]"]
    with pytest.raises(ConfigError, match="int8 - fp32"):
        effects_of(tmp_path, "quantization", "int8", "fp16")


def test_latencies_of_two_machines_are_not_shown_together(tmp_path):
    again = [timed(name, "litert", 2, 2, 2, device="another") for name in ("paper", "relu")]
    write(tmp_path / "activation", LATENCY, [*TIMES, *again])
    shown = latency_of(tmp_path, "activation")
    assert list(shown["litert"]) == ["2.000", "2.000"]
    assert list(shown["executorch"]) == ["1.000", "0.979 [0.972, 0.987]"]
    chart = latency_chart(study_table(tmp_path, "activation", LATENCY)).to_dict()
    texts = [row["text"] for rows in chart["datasets"].values() for row in rows if " on litert" in row.get("text", "")]
    assert len(set(texts)) == 2


def test_latencies_are_ratios_by_runtime(tmp_path):
    write(tmp_path / "activation", LATENCY, TIMES)
    table = latency_of(tmp_path, "activation")
    assert list(table.columns) == ["executorch", "litert"]
    assert table.loc["paper"].tolist() == ["1.000", "1.000"]
    assert table.loc["relu"].tolist() == ["0.979 [0.972, 0.987]", "0.900 [0.889, 0.912]"]
    missing = {"ratio": None, "low": None, "high": None, "stopped": "it has no kernel"}
    write(tmp_path / "stem", LATENCY, [TIMES[0], {**TIMES[1], **missing}])
    assert latency_of(tmp_path, "stem").loc["relu"].tolist() == ["it has no kernel"]
    write(tmp_path / "quantization", LATENCY, [*TIMES, {**timed("int8", "litert", 0.5, 0.4, 0.6), **IN_INT8}])
    in_int8 = latency_of(tmp_path, "quantization", precision="int8")
    assert in_int8.to_dict() == {"litert": {"int8": "0.500 [0.450, 0.555]"}}
    write(tmp_path / "se", LATENCY, [{**row, "to_fp32": None} for row in TIMES])
    with pytest.raises(ConfigError, match="int8"):
        latency_of(tmp_path, "se", precision="int8")


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

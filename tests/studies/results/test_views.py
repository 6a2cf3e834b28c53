"""Tables as a reader sees them, of the published results."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mnet import ConfigError
from mnet.studies.results.views import claims_of, effects_of, latency_of, reading, summary_of
from mnet.studies.runs.store import LATENCY, PUBLISHED

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
COLUMNS = ["id", "paper", "source", "statement", "paper_value", "ours", "low", "high", "n", "verdict"]
COLUMNS += ["on", "study", "baseline", "kind", "metric"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    (folder / PUBLISHED).symlink_to(RESULTS / PUBLISHED, target_is_directory=True)
    return folder


def test_a_summary_rounds_and_writes_intervals_out(root):
    told = summary_of(root, "bottleneck")
    raw = pd.read_csv(RESULTS / PUBLISHED / "bottleneck/summary.csv").set_index("cell")
    assert told["difference"].iloc[0] == "baseline"
    for cell, row in raw.iloc[1:].iterrows():
        assert told.loc[cell, "difference"] == f"{row['delta']:+.2f}"
        assert told.loc[cell, "95% interval"] == f"[{row['low']:+.2f}, {row['high']:+.2f}]"
        assert told.loc[cell, "top-1 %"] == f"{row['top1_mean']:.2f} ± {row['top1_half_width']:.2f}"
        assert told.loc[cell, "verdict"] == row["verdict"]


def test_own_tables_come_before_the_published_ones_and_it_is_said_which(tmp_path):
    for study in ("se", "stem"):
        shutil.copytree(RESULTS / PUBLISHED / study, tmp_path / PUBLISHED / study)
    shutil.copytree(RESULTS / PUBLISHED / "se", tmp_path / "se")
    told = reading(tmp_path, "se", "stem")
    assert list(told["numbers"]) == ["own", "published"]
    assert set(told["model"]) == {"mobilenet_v3_small"}
    assert told["seed"].iloc[0].startswith("0 to ")
    assert "executorch" in reading(tmp_path, "se", name=LATENCY)["runtime"].iloc[0]


def test_effects_are_within_each_variant(root):
    raw = pd.read_csv(RESULTS / PUBLISHED / "quantization/effects.csv")
    raw = raw[(raw["value"] == "int8") & (raw["against"] == "fp32")]
    told = effects_of(root, "quantization", "int8", "fp32")
    assert list(told.index) == list(raw["variant"])
    assert list(told["difference"]) == [f"{delta:+.2f}" for delta in raw["delta"]]
    assert told["beyond the first"].iloc[0] == ""
    with pytest.raises(ConfigError, match="int8 - fp32"):
        effects_of(root, "quantization", "int8", "fp16")


def test_latencies_are_ratios_by_runtime(root):
    raw = pd.read_csv(RESULTS / PUBLISHED / "activation/latency.csv")
    told = latency_of(root, "activation")
    assert list(told.columns) == list(dict.fromkeys(raw["runtime"]))
    assert (told.iloc[0] == "1.000").all()
    row = raw[(raw["variant"] == "relu") & (raw["runtime"] == "executorch")].iloc[0]
    assert told.loc["relu", "executorch"] == f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    in_bits = latency_of(root, "quantization", precision="int8")
    assert in_bits.index.str.startswith("precision=int8").all()
    with pytest.raises(ConfigError, match="int8"):
        latency_of(root, "activation", precision="int8")


@pytest.fixture
def claimed(tmp_path) -> Path:
    """A results folder with three claims: of points on two data sets, of a ratio, and without a run."""
    points = [
        "a",
        "v2",
        "figure 6a",
        "is better",
        None,
        2.2,
        0.76,
        3.64,
        3,
        "reproduced",
        "small",
        "se",
        "x",
        "accuracy",
    ]
    more = [*points[:5], 1.0, -1.0, 3.0, 3, "inconclusive", *points[10:]]
    ratio = [
        "b",
        "v3",
        "table 5",
        "is faster",
        0.982,
        0.9794,
        0.972,
        0.987,
        36,
        "reproduced",
        "executorch",
        "se",
        "x",
        "latency",
    ]
    none = [
        "c",
        "v1",
        "table 4",
        "is worse",
        -1.1,
        None,
        None,
        None,
        None,
        "not tested here",
        None,
        "stem",
        "x",
        "accuracy",
    ]
    metrics = ["top1_points", "top1_points", "latency_ratio", "top1_points"]
    rows = [[*row, metric] for row, metric in zip((points, more, ratio, none), metrics, strict=True)]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "claims.csv", index=False)
    return tmp_path


def test_claims_stand_beside_what_was_measured(claimed):
    told = claims_of(claimed, "se")
    assert list(told.index) == ["a", "b"]
    assert told.loc["a", ["paper", "ours", "95% interval", "n"]].tolist() == ["", "+2.20", "[+0.76, +3.64]", "3"]
    assert told.loc["b", ["paper", "ours", "95% interval"]].tolist() == ["0.982", "0.979", "[0.972, 0.987]"]
    assert told.loc["a", "source"] == "v2, figure 6a"
    assert list(claims_of(claimed, "se", every=True).index) == ["a", "a", "b"]
    assert claims_of(claimed).loc["c", ["paper", "ours", "n", "on"]].tolist() == ["-1.10", "", "", ""]


def test_own_claims_come_before_the_published_ones_and_without_any_it_is_said_what_writes_them(
    claimed, tmp_path_factory
):
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(ConfigError, match="make claims"):
        claims_of(other)
    (other / PUBLISHED).mkdir()
    shutil.copy(claimed / "claims.csv", other / PUBLISHED / "claims.csv")
    assert len(claims_of(other)) == 3
    pd.read_csv(claimed / "claims.csv").head(1).to_csv(other / "claims.csv", index=False)
    assert len(claims_of(other)) == 1
    with pytest.raises(ConfigError, match="Did you mean stem"):
        claims_of(claimed, "stme")

"""Claims as a reader sees them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mnet import ConfigError
from mnet.studies.claims.views import claims_of, claims_table, grouped_claims
from mnet.studies.results.archive import PUBLISHED


@pytest.fixture
def claimed(tmp_path) -> Path:
    """A results folder with three claims: one in points with two rows of evidence, one ratio, and one without a run."""
    points = {
        **{"id": "a", "paper": "v2", "source": "figure 6a", "statement": "is better", "ours": 2.2, "low": 0.76},
        **{"high": 3.64, "n": 3, "verdict": "reproduced", "on": "small", "study": "se", "baseline": "x"},
        **{"variant": "y", "kind": "accuracy", "metric": "top1_points", "why": "", "command": "make it"},
    }
    more = {**points, "ours": 1.0, "low": -1.0, "high": 3.0, "verdict": "undecided"}
    ratio = {
        **{**points, "id": "b", "paper": "v3", "source": "table 5", "statement": "is faster", "paper_value": 0.982},
        **{"ours": 0.9794, "low": 0.972, "high": 0.987, "n": 36, "on": "executorch", "kind": "latency"},
        "metric": "latency_ratio",
    }
    untested = {
        **{"id": "c", "paper": "v1", "source": "table 4", "statement": "is worse", "paper_value": -1.1},
        **{"verdict": "not tested here", "study": "stem", "baseline": "x", "kind": "accuracy", "metric": "top1_points"},
    }
    pd.DataFrame([points, more, ratio, untested]).to_csv(tmp_path / "claims.csv", index=False)
    return tmp_path


def test_claims_stand_beside_what_was_measured(claimed):
    table = claims_of(claimed, "se")
    assert list(table.index) == ["a", "b"]
    assert table.loc["a", ["paper", "ours", "95% interval", "n"]].tolist() == ["", "+2.20", "[+0.76, +3.64]", "3"]
    assert table.loc["b", ["paper", "ours", "95% interval"]].tolist() == ["0.982", "0.979", "[0.972, 0.987]"]
    assert table.loc["a", "source"] == "v2, figure 6a"
    assert list(claims_of(claimed, "se", every=True).index) == ["a", "a", "b"]
    assert claims_of(claimed).loc["c", ["paper", "ours", "n", "on"]].tolist() == ["-1.10", "", "", ""]


def test_claims_of_the_folder_come_before_published_ones_and_without_any_the_error_names_the_command(
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


def test_a_claim_has_its_unit_and_its_evidence_below_its_headline(claimed):
    evidence = pd.read_csv(claimed / "claims.csv")
    assert list(claims_table(evidence).frame()["unit"]) == ["points", "points", "×", "points"]
    table = grouped_claims(evidence).select("statement", "ours")
    assert table.texts() == [["is better", "+2.20"], ["is faster", "0.979"], ["is worse", ""]]
    assert [row.cells[1].text for row in table.records[0].evidence] == ["+1.00"]
    assert table.records[0].tags == {"verdict": "reproduced", "kind": "accuracy"}
    assert table.records[0].command == "make it"
    assert table.records[0].details == ["y against x; on small"]

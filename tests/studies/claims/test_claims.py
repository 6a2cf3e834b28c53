"""The claims: each names a study that exists, and the cells that test it are in that study."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mnet import ConfigError, describe
from mnet.studies import load_study
from mnet.studies.claims.claims import Claim, load_claims
from mnet.studies.claims.scoreboard import scoreboard
from mnet.studies.claims.verdicts import VERDICTS
from mnet.studies.claims.views import claims_table
from mnet.studies.study import list_studies, load_profile

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
CLAIMS = load_claims(EXPERIMENTS / "claims.yaml")
STUDIES = list_studies(EXPERIMENTS / "sweeps")
PROGRAMS = {"search"}

ELSEWHERE = {
    "v1-dead-depthwise-kernels": "compares no networks: it gives a share for one",
    "v3-hswish-like-swish": "both halves are tested, apart: swish in `activation`, the sigmoid gate in `se`",
}
"""Accuracy claims for which no study has both cells, and why."""

NATIVE, PAPERS = 28, 224  # a study's resolutions are an eighth of the paper's


def cells(study: str) -> set[tuple[object, int]]:
    """Network and resolution of every cell under the profile `full`, at the paper's strides."""
    overrides = load_profile(EXPERIMENTS / "profiles.yaml", "full", study)
    overrides["total_stride"] = [None]
    return {
        (cell.trials[0].network(1000, 3), cell.trials[0].resolution or NATIVE)
        for cell in load_study(EXPERIMENTS / f"sweeps/{study}.yaml", overrides).cells
        if cell.trials[0].target_madds is None
    }


def wanted(setup: dict) -> tuple[object, int]:
    toggles = {name: value for name, value in setup.items() if name not in ("model", "resolution")}
    return describe(setup["model"], **toggles), setup.get("resolution", PAPERS) * NATIVE // PAPERS


def pairs(claim: Claim) -> list[dict]:
    """The networks that a claim compares."""
    if claim.baseline is not None and claim.variant is not None:
        return [dict(claim.baseline), dict(claim.variant)]
    series = claim.more.get("series")
    return [{"model": claim.model, series["toggle"]: value} for value in series["values"]] if series else []


def test_every_claim_is_kept_and_marked_as_verified_or_not():
    assert len(CLAIMS) == 147
    assert [claim.id for claim in CLAIMS if not claim.verified] == ["v3-netadapt"]
    relu = next(claim for claim in CLAIMS if claim.id == "v3-relu-accuracy")
    assert (relu.study, relu.paper_value, relu.variant["activation"]) == ("activation", -0.7, "relu")
    assert relu.more == {"paper_absolute": [75.2, 74.5]}
    assert not [claim.id for claim in CLAIMS if claim.statement.startswith("...")]  # each must be readable alone


def test_every_claim_names_a_study_and_every_study_of_the_papers_has_a_claim():
    assert {claim.study for claim in CLAIMS} <= {*STUDIES, *PROGRAMS}
    assert {claim.study for claim in CLAIMS} >= set(STUDIES) - {"precision"}  # which is about our own recipe


ACCURACY = [claim for claim in CLAIMS if claim.kind == "accuracy" and claim.study in STUDIES and not claim.untestable]


@pytest.mark.parametrize("claim", ACCURACY, ids=lambda claim: claim.id)
def test_the_cells_that_test_a_claim_of_accuracy_are_in_its_study(claim):
    needed = pairs(claim)
    result = cells(claim.study)
    assert (bool(needed) and all(wanted(setup) in result for setup in needed)) == (claim.id not in ELSEWHERE)


def test_the_numbers_of_a_description_are_those_of_verified_claims():
    """Checks every number with one decimal, except for widths."""
    known = yaml.safe_load((EXPERIMENTS / "claims.yaml").read_text())["claims"]
    for study in STUDIES:
        text = load_study(EXPERIMENTS / f"sweeps/{study}.yaml").description.partition("Cost:")[0]
        message = set(re.findall(r"\b\d+\.\d\b", text))
        facts = " ".join(str(claim) for claim in known if claim["verified"])
        for number in message - {"0.5"}:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", facts), (study, number)


ENTRY = {
    **{"id": "a", "study": "se", "paper": "v3", "source": "table 5", "statement": "s", "metric": "top1_points"},
    **{"kind": "accuracy", "verified": True, "seen_in": "v3"},
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([ENTRY, dict(ENTRY)], "line 11: claim a is defined twice"),
        ([{**ENTRY, "kind": "acuracy"}], "Did you mean accuracy"),
        ([{**ENTRY, "direction": "upp"}], "Did you mean up"),
        ([{**ENTRY, "verified": "perhaps"}], "verified must be true or false"),
        ([{**ENTRY, "baseline": {"se": True}}], "a mapping with a model"),
        ([{**ENTRY, "beyond": "int8"}], "a mapping of settings"),
        ([{**ENTRY, "margin": "small"}], "margin must be"),
        ([{name: value for name, value in ENTRY.items() if name != "study"}], "claim a has no study"),
        (["se"], "expected a claim as a mapping"),
        ({}, "a mapping with a list `claims`"),
    ],
)
def test_a_wrong_claim_is_answered_with_its_line(tmp_path, entries, message):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": entries}, sort_keys=False))
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_claims(path)
    assert str(error.value).startswith(f"{path}, line ")


def test_a_number_that_was_read_in_a_copy_alone_is_marked():
    marked = {claim.id for claim in CLAIMS if claim.cited != claim.source}
    assert {"v4-s-vs-v2-latency", "v4-twice-as-fast-as-v3"} < marked  # one of the two times behind 0.48 was read once
    assert not marked & {"v4-s-vs-v2-accuracy", "v2-vs-v1-accuracy"}
    row = {"paper": "v4", "paper_value": 0.48, "kind": "latency", "metric": "latency_ratio", "statement": "s"}
    row |= dict.fromkeys(("id", "verdict", "ours", "low", "high", "n", "on", "why", "baseline"))
    texts = claims_table(pd.DataFrame([{**row, "source": source} for source in ("table 6 †", "table 6")])).frame()
    assert texts["paper"].tolist() == ["0.480 †", "0.480"]


def test_what_a_later_version_adds_to_a_claim_is_kept(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [{**ENTRY, "margin": 0.2, "seen_by": "us"}], "published": {}}))
    assert (load_claims(path)[0].margin, load_claims(path)[0].more) == (0.2, {"seen_by": "us"})


def test_the_scoreboard_counts_each_claim_once_by_its_headline():
    rows = [
        {"id": "a", "kind": "latency", "study": "se", "verdict": "reproduced"},
        {"id": "a", "kind": "latency", "study": "se", "verdict": "contradicted"},  # further evidence
        {"id": "b", "kind": "arithmetic", "study": "se", "verdict": "contradicted"},
        {"id": "c", "kind": "accuracy", "study": "search", "verdict": "undecided"},
    ]
    counts = scoreboard(pd.DataFrame(rows))
    assert counts.loc["latency"].to_dict() == {**dict.fromkeys(VERDICTS, 0), "reproduced": 1, "claims": 1}
    assert counts.loc["counts", "contradicted"] == counts.loc["search", "undecided"] == 1
    assert counts["claims"].sum() == 3

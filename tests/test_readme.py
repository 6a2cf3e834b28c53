"""The tables of the READMEs are those of the published results."""

from pathlib import Path

import claims
import pandas as pd
import publish
import pytest

import mnet
from mnet import ConfigError
from mnet.studies import paired_deltas, study_table
from mnet.studies.claims.claims import load_claims
from mnet.studies.results import archive
from mnet.studies.results.archive import read_table
from mnet.studies.results.effects import ALL
from mnet.studies.results.statistics import half_width
from mnet.studies.runs.store import SUMMARY
from mnet.studies.study import list_studies
from mnet.tasks import metric_of

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results/published"
EFFECTS = sorted(path.parent.name for path in PUBLISHED.glob("*/effects.csv"))
CLAIMS = {claim.id: claim for claim in load_claims(ROOT / "experiments/claims.yaml")}
STUDIES = [study for study in list_studies(ROOT / "experiments/sweeps") if study not in EFFECTS]


@pytest.mark.parametrize("path", publish.READMES, ids=lambda path: path.parent.name)
def test_the_tables_of_the_readmes_are_those_of_the_published_results(path):
    written = path.read_text()
    assert written.count("<!-- begin ") >= 2
    assert publish.fill(written, PUBLISHED) == written
    with pytest.raises(ConfigError, match="wants the table 'claimz'"):
        publish.fill("<!-- begin claimz -->\n<!-- end claimz -->", PUBLISHED)


def test_the_published_claims_follow_from_the_published_runs_and_times():
    found, kept = claims.evaluate(PUBLISHED), read_table(PUBLISHED / archive.CLAIMS)
    assert list(found) == list(kept)
    assert len(found["id"].unique()) == len(CLAIMS)
    for name in ("id", "verdict", "why", "command"):
        assert found[name].fillna("").tolist() == kept[name].fillna("").tolist()
    for name in ("ours", "low", "high"):
        assert found[name].tolist() == pytest.approx(kept[name].tolist(), nan_ok=True)
    for row in found.to_dict("records"):
        claim = CLAIMS[str(row["id"])]
        assert pd.isna(row["paper_value"]) or (claim.verified and row["paper_value"] == claim.printed)


@pytest.mark.parametrize("study", STUDIES)
def test_every_published_comparison_follows_from_the_runs(study):
    summary, runs = study_table(PUBLISHED, study, SUMMARY), study_table(PUBLISHED, study)
    assert set(runs["seed"]) >= set(range(3))
    deltas = paired_deltas(runs, summary["cell"].iloc[0], metric_of(summary).name)
    for (_, cell), found in zip(summary.iloc[1:].iterrows(), deltas.itertuples(), strict=True):
        assert cell["delta"] == pytest.approx(found.delta)
        assert (cell["low"], cell["high"]) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("study", EFFECTS)
def test_every_published_effect_follows_from_the_runs(study):
    runs = study_table(PUBLISHED, study)
    variant = runs["cell"].str.partition(", ")[2]
    tops = runs.assign(variant=variant).pivot(index=["variant", "seed"], columns="precision", values="top1")
    for _, row in pd.read_csv(PUBLISHED / study / "effects.csv").iterrows():
        deltas = tops[row["value"]] - tops[row["against"]]
        own = deltas.groupby("seed").mean() if row["variant"] == ALL else deltas[row["variant"]]
        assert (row["n"], row["delta"]) == (len(own), pytest.approx(own.mean()))
        assert row["high"] - row["delta"] == pytest.approx(half_width(own.to_numpy()))


def test_what_is_trained_on_in_int8_ends_above_what_is_rounded_after_training():
    effects = pd.read_csv(PUBLISHED / "quantization/effects.csv").set_index(["value", "against", "variant"])
    gained = effects.loc[("int8-qat", "int8")]
    assert (gained["delta"] > 0).all()
    assert gained.loc[ALL, "low"] > 0


def test_the_readme_says_what_bf16_costs():
    effects = pd.read_csv(PUBLISHED / "precision/effects.csv").set_index(["value", "variant"])
    delta, low, high = effects.loc[("bf16", ALL), ["delta", "low", "high"]]
    assert f"{delta:.2f} [{low:.2f}, {high:+.2f}] points below fp32" in (ROOT / "README.md").read_text()


def test_the_readme_says_what_the_laboratorys_bench_found():
    readme = (ROOT / "README.md").read_text()
    bench = pd.read_csv(PUBLISHED / "bench-latency.csv")
    same, slow = bench[bench["planted"] == 0], bench[bench["planted"] > 0]
    assert f"different in {((same['low'] > 1) | (same['high'] < 1)).sum()} of {len(same)} trials" in readme
    assert f"is found in {(slow['low'] > 1).sum()} of {len(slow)}" in readme


def test_a_search_is_published_with_its_network_which_its_tables_name_by_where_it_is_then(tmp_path, monkeypatch):
    name = "netadapt-mine"
    before, network = f"results/{name}/network.yaml", mnet.describe("mobilenet_v3_small", num_classes=10)
    folder = tmp_path / "results" / name
    mnet.write_network(network, folder / "network.yaml")
    runs = pd.DataFrame({"cell": [f"model={before}"], "model": [before], "run_id": ["a"]})
    for table in ("runs.csv", "trace.csv"):
        runs.to_csv(folder / table, index=False)
    (folder / f"{name}.yaml").write_text(f"parameters: [model={before}]")
    (folder / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "results/published"
    copied = {path.name for path in publish.copy(tmp_path / "results", target)}
    assert copied == {"runs.csv", "trace.csv", "network.yaml", f"{name}.yaml"}
    published = pd.read_csv(target / name / "runs.csv")["model"][0]
    assert published == f"results/published/{name}/network.yaml"
    assert mnet.describe(published) == network
    assert published in (target / name / f"{name}.yaml").read_text()

"""The tables of the READMEs are those of the published results."""

from pathlib import Path

import pandas as pd
import pytest

from mnet.studies import paired_deltas
from mnet.studies.claims import load_claims
from mnet.studies.effects import ALL
from mnet.studies.statistics import half_width
from mnet.studies.sweep import list_studies
from mnet.studies.verdicts import ratio_verdict

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results/published"
EFFECTS = sorted(path.parent.name for path in PUBLISHED.glob("*/effects.csv"))
STUDIES = [study for study in list_studies(ROOT / "experiments/sweeps") if study not in EFFECTS]


def test_the_readmes_table_is_that_of_the_published_results():
    readme = (ROOT / "README.md").read_text()
    summary = pd.read_csv(PUBLISHED / "activation/summary.csv")
    assert len(summary) == 4
    for row, (_, cell) in enumerate(summary.iterrows()):
        words = [f"| {cell['cell']} | {cell['n']} | {cell['top1_mean']:.2f} | {cell['top1_sd']:.2f} |"]
        if row:
            words.append(f"{cell['delta']:+.2f} | [{cell['low']:+.2f}, {cell['high']:+.2f}]")
        line = next(line for line in readme.splitlines() if words[0] in line)
        assert all(word in line for word in words)


@pytest.mark.parametrize("study", STUDIES)
def test_every_published_comparison_is_in_its_table_and_follows_from_the_runs(study):
    listing = (PUBLISHED / "README.md").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    summary = pd.read_csv(PUBLISHED / study / "summary.csv")
    runs = pd.read_csv(PUBLISHED / study / "runs.csv")
    baseline = str(summary["cell"].iloc[0])
    deltas = paired_deltas(runs.assign(cell=runs["cell"].astype(str).str.lower()), baseline.lower())
    for (_, cell), found in zip(summary.iloc[1:].iterrows(), deltas.itertuples(), strict=True):
        assert cell["delta"] == pytest.approx(found.delta)
        assert (cell["low"], cell["high"]) == pytest.approx((found.low, found.high))
        name = str(cell["cell"]).lower() if isinstance(cell["cell"], bool) else str(cell["cell"])
        numbers = f"{cell['delta']:+.2f} | [{cell['low']:+.2f}, {cell['high']:+.2f}]"
        assert any(f"| {study} | {name} |" in line and f"| {numbers} | {cell['verdict']} |" in line for line in listing)
        told = f"| {study} | {name} |" in readme and numbers in readme
        assert told == (cell["verdict"] in ("up", "down"))


@pytest.mark.parametrize("study", EFFECTS)
def test_every_published_effect_is_in_its_table_and_follows_from_the_runs(study):
    listing = (PUBLISHED / "README.md").read_text()
    runs = pd.read_csv(PUBLISHED / study / "runs.csv")
    variant = runs["cell"].str.partition(", ")[2]
    tops = runs.assign(variant=variant).pivot(index=["variant", "seed"], columns="precision", values="top1")
    for _, row in pd.read_csv(PUBLISHED / study / "effects.csv").iterrows():
        deltas = tops[row["value"]] - tops[row["against"]]
        own = deltas.groupby("seed").mean() if row["variant"] == ALL else deltas[row["variant"]]
        assert (row["n"], row["delta"]) == (len(own), pytest.approx(own.mean()))
        assert row["high"] - row["delta"] == pytest.approx(half_width(own.to_numpy()))
        numbers = f"{row['delta']:+.2f} | [{row['low']:+.2f}, {row['high']:+.2f}] | {row['verdict']} |"
        assert f"| {row['variant']} | {row['value']} - {row['against']} | {numbers}" in listing


def test_what_is_trained_on_in_int8_ends_above_what_is_rounded_after_training():
    effects = pd.read_csv(PUBLISHED / "quantization/effects.csv").set_index(["value", "against", "variant"])
    gained = effects.loc[("int8-qat", "int8")]
    assert (gained["delta"] > 0).all()
    assert gained.loc[ALL, "low"] > 0


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*/latency-claims.csv")), ids=lambda path: path.parent.name)
def test_every_published_latency_claim_is_in_the_tables_with_the_verdict_of_the_rule(path):
    listing = (PUBLISHED / "README.md").read_text().splitlines()
    readme = (ROOT / "README.md").read_text().splitlines()
    claims = {claim.id: claim for claim in load_claims(ROOT / "experiments/claims.yaml")}
    for _, row in pd.read_csv(path).iterrows():
        told = next(line for line in listing if line.startswith(f"| {row['id']} |"))
        if pd.isna(row["ours"]):
            assert row["verdict"] in told
            continue
        assert row["verdict"] == ratio_verdict(row["low"], row["high"], claims[row["id"]].direction)
        numbers = f"{row['ours']:.3f} [{row['low']:.3f}, {row['high']:.3f}] {row['verdict']}"
        assert numbers in told
        if row["runtime"] in ("executorch", "litert"):
            assert numbers in next(line for line in readme if line.startswith(f"| {row['id']} |"))


def test_the_readme_says_what_the_laboratorys_bench_found():
    readme = (ROOT / "README.md").read_text()
    bench = pd.read_csv(PUBLISHED / "bench-latency.csv")
    same, slow = bench[bench["planted"] == 0], bench[bench["planted"] > 0]
    assert f"different in {((same['low'] > 1) | (same['high'] < 1)).sum()} of {len(same)} trials" in readme
    assert f"is found in {(slow['low'] > 1).sum()} of {len(slow)}" in readme

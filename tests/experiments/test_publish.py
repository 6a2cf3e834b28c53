"""experiments/publish.py as a whole: tables, claims with their figures, and documents, all in a copy."""

import shutil
from pathlib import Path

import pandas as pd
import publish
from common.sweeps import CLAIMS_FILE

from mnet.files import write_csv
from mnet.studies.claims.claims import load_claims
from mnet.studies.results.archive import read_table
from mnet.studies.runs.store import CLAIMS, CLAIMS_DARK, CLAIMS_LIGHT, RUNS, SUMMARY

PUBLISHED = Path(__file__).parents[2] / "results/published"


def test_results_are_copied_judged_and_written_into_the_documents(tmp_path, monkeypatch, capsys):
    root, into, page = tmp_path / "results", tmp_path / "published", tmp_path / "page.md"
    shutil.copytree(PUBLISHED / "se", root / "se")
    page.write_text("Before.\n<!-- begin scores -->\nold\n<!-- end scores -->\nAfter.\n")
    monkeypatch.setattr(publish, "DOCUMENTS", (page,))
    some = [claim for claim in load_claims(CLAIMS_FILE) if claim.study == "se"]  # judging all of them takes seconds
    monkeypatch.setattr("common.evaluation.load_claims", lambda path: some)
    assert publish.main([f"--out={root}", f"--into={into}"]) == 0
    assert f"  {into}/se/{SUMMARY}" in capsys.readouterr().out.splitlines()
    assert (into / "se" / SUMMARY).read_bytes() == (root / "se" / SUMMARY).read_bytes()
    claims = read_table(into / CLAIMS)
    assert "se" in set(claims.loc[claims["n"].notna(), "study"])
    light, dark = ((into / name).read_text() for name in (CLAIMS_LIGHT, CLAIMS_DARK))
    assert light.startswith("<svg")
    assert dark.startswith("<svg")
    assert light != dark
    text = page.read_text()
    assert text.startswith("Before.\n<!-- begin scores -->\n| claims about |")
    assert text.endswith("<!-- end scores -->\nAfter.\n")
    assert "old" not in text


def test_runs_of_other_machines_stay_and_those_of_this_one_are_replaced(tmp_path):
    root, into = tmp_path / "results", tmp_path / "published"
    columns = ["run_id", "device", "top1"]
    write_csv(into / "se" / RUNS, pd.DataFrame([("a", "X", 88.0), ("a", "Y", 89.0), ("b", "Y", 90.0)], columns=columns))
    write_csv(root / "se" / RUNS, pd.DataFrame([("a", "Y", 91.0)], columns=columns))
    assert [path.name for path in publish.copy_beside(root, into, ["run_id", "device"])] == [RUNS]
    rows = pd.read_csv(into / "se" / RUNS).itertuples(index=False)
    assert list(map(tuple, rows)) == [("a", "Y", 91.0), ("a", "X", 88.0), ("b", "Y", 90.0)]

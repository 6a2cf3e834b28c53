"""experiments/publish.py as a whole: tables, claims with their figures, and documents, all in a copy."""

import shutil
from pathlib import Path

import publish
from common.sweeps import CLAIMS_FILE

from mnet.studies.claims.claims import load_claims
from mnet.studies.results.archive import read_table
from mnet.studies.runs.store import CLAIMS, CLAIMS_DARK, CLAIMS_LIGHT, SUMMARY

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

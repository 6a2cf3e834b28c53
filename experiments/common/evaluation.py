"""Judges every claim of claims.yaml by what a results folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from common.sweeps import CLAIMS_FILE, SWEEPS, load_sweep
from mnet.studies.claims.claims import load_claims
from mnet.studies.claims.evidence import claims_table
from mnet.studies.results.archive import studies_with, study_table
from mnet.studies.results.loading import load
from mnet.studies.results.tables import run_row
from mnet.studies.runs.store import LATENCY, LATENCY_CLAIMS, SUMMARY, TRACE
from mnet.studies.study import list_studies

PROFILES = ("quick", "longer", "full")
"""Profiles that train a claim's networks, the cheapest first."""


def evaluate_claims(root: Path) -> pd.DataFrame:
    """One row a claim and piece of evidence, of `evidence.claims_table`.

    Args:
        root: The results folder; tables that it lacks are taken from the published ones.
    """
    return claims_table(
        load_claims(CLAIMS_FILE),
        runs=load(root),
        planned=pd.DataFrame(_planned_cells()),
        latencies={study: _latency_claims(root, study) for study in studies_with(root, LATENCY_CLAIMS)},
        searches={name: study_table(root, name, SUMMARY) for name in studies_with(root, TRACE)},
    )


def _planned_cells() -> Iterator[dict[str, object]]:
    """Every cell that a study has under some profile, and the command that trains it."""
    for profile in PROFILES:
        for name in list_studies(SWEEPS):
            command = f"make ablate-{name}" + ("" if profile == PROFILES[0] else f" PROFILE={profile}")
            for cell, trial in load_sweep(name, profile, seeds=1).trials:
                resolved = {"epochs": trial.full_recipe().epochs, "resolution": trial.input_spec().resolution}
                yield {**run_row(name, cell.name, trial, resolved), "command": command}


def _latency_claims(root: Path, study: str) -> pd.DataFrame:
    """A study's latency claims, with the device, and the operators that ran outside the fast kernels."""
    keys = ["variant", "runtime", "threads"]
    measured = study_table(root, study, LATENCY)
    slow = measured[[*keys, "undelegated_ops"]].drop_duplicates(keys).rename(columns={"undelegated_ops": "fell_back"})
    claims = study_table(root, study, LATENCY_CLAIMS).merge(slow, how="left", on=keys)
    return claims.assign(device=measured["device"].iloc[0], fell_back=claims["fell_back"].fillna(""))

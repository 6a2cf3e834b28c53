"""Judges every claim of claims.yaml by the contents of a results folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd

from common.sweeps import CLAIMS_FILE, SWEEPS, load_sweep
from mnet.errors import ConfigError, leave_out
from mnet.studies.claims.claims import load_claims
from mnet.studies.claims.evidence import claims_table
from mnet.studies.plan import Plan, read_plans
from mnet.studies.results.archive import of_latest_machine, studies_with, study_table
from mnet.studies.results.loading import load
from mnet.studies.results.tables import run_row
from mnet.studies.runs.store import GPU, LATENCY, LATENCY_CLAIMS, PLAN, PUBLISHED, SUMMARY, TRACE
from mnet.studies.study import Study, list_studies

DECIDING = "decide"
"""The profile whose settings were chosen for the claims beforehand."""
PROFILES = ("quick", DECIDING, "gpu", "longer", "full")
"""Profiles that train a claim's networks. For a claim without a run, the last profile with the shortest training is
suggested: `gpu` precedes `longer`, which trains as long, so it never is."""


def evaluate_claims(root: Path) -> pd.DataFrame:
    """The table of `evidence.claims_table`: one row per claim and piece of evidence.

    Args:
        root: The results folder; tables that it lacks are taken from the published ones.
    """
    searched = studies_with(root, TRACE)
    timed = sorted({*studies_with(root, LATENCY_CLAIMS)} & {*studies_with(root, LATENCY)})
    planned = {profile: list(planned_cells(profile)) for profile in PROFILES}
    return claims_table(
        load_claims(CLAIMS_FILE),
        runs=load(root, every_machine=True, plain=True),
        planned=pd.DataFrame(list(chain.from_iterable(planned.values()))),
        latencies={study: _latency_claims(root, study) for study in timed},
        searches={name: study_table(root, name, SUMMARY) for name in studies_with(root, SUMMARY) if name in searched},
        chosen={str(row["run_id"]) for row in planned[DECIDING]},
        plans={name: find_plans(root, name) for name in list_studies(SWEEPS)},
    )


def find_plans(root: Path, study: str) -> list[Plan]:
    """The plans of a study in a results folder, published ones too, with those of the profile `decide` and of a GPU."""
    plans: list[Plan] = []
    published = root / PUBLISHED
    for folder in (root, root / DECIDING, published / DECIDING, published, published / GPU, root / GPU):
        try:
            plans += read_plans(folder / study)
        except ConfigError as error:
            leave_out(folder / study / PLAN, error)
    return plans


def planned_cells(profile: str) -> Iterator[dict[str, object]]:
    """The cells of all studies under a profile, as rows for `planned` of `claims_table`."""
    for name in list_studies(SWEEPS):
        yield from planned_rows(load_sweep(name, profile, seeds=1), profile)


def planned_rows(study: Study, profile: str) -> Iterator[dict[str, object]]:
    """A row per cell of a study under a profile, with the command that trains it."""
    command = f"make ablate-{study.name}" + ("" if profile == PROFILES[0] else f" PROFILE={profile}")
    for cell in study.cells:
        trial = cell.trials[0]
        resolved = {"epochs": trial.full_recipe().epochs, "resolution": trial.input_spec().resolution}
        yield {**run_row(study.name, cell.name, trial, resolved), "command": command}


def _latency_claims(root: Path, study: str) -> pd.DataFrame:
    """A study's latency claims, with the operators that ran outside the fast kernels. A claim in an older table
    without devices gets the device that was measured last under its conditions."""
    measured = _with_batch(study_table(root, study, LATENCY))
    claims = _with_batch(study_table(root, study, LATENCY_CLAIMS))
    conditions = ["runtime", "threads", "batch"]
    if "device" not in claims:
        latest = of_latest_machine(measured)[[*conditions, "device"]].drop_duplicates(conditions)
        claims = claims.merge(latest, how="left", on=conditions)
    claims = claims.fillna({"device": "an unknown device"})
    keys = ["variant", *conditions, "device"]
    outside = measured.reindex(columns=[*keys, "undelegated_ops"]).drop_duplicates(keys, keep="last")
    claims = claims.merge(outside.rename(columns={"undelegated_ops": "fell_back"}), how="left", on=keys)
    return claims.fillna({"fell_back": ""})


def _with_batch(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the batch size, which is 1 where an older table has none."""
    return table.assign(batch=table["batch"].fillna(1).astype(int) if "batch" in table else 1)

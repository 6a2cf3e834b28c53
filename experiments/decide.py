"""Decide the papers' claims: `python experiments/decide.py --budget=8h`.

Trains the networks of every claim in the setting that the profile `decide` gives it. Seeds go where they bring the most
decisions per second, until claims and comparisons are decided or the budget runs out. The same command continues.
"""

from __future__ import annotations

from common.workers import start_worker_server

if __name__ == "__main__":
    start_worker_server()

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from common.deciding import Comparison, Undecided, compare_with_baseline, read_duration, run_until_decided
from common.driver import RunOptions, choose_engine, pack_jobs, read_data
from common.evaluation import DECIDING, evaluate_claims, planned_rows
from common.options import Arguments, Parser
from common.program import begin_training, program
from common.sweeps import CLAIMS_FILE, PROFILES_FILE, load_sweep

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.studies.claims.claims import Claim, load_claims
from mnet.studies.claims.evidence import count_verdicts
from mnet.studies.claims.pairs import Evidence, RunIndex, Setting, evidence_in, settings_of
from mnet.studies.claims.verdicts import margin_of
from mnet.studies.plan import LOOKS, make_plan
from mnet.studies.results.loading import load
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CLAIMS, PUBLISHED, find_finished, other_training, results_root, runs_with_result
from mnet.studies.study import Study, studies_of_profile


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Command-line options other than the settings of a trial."""

    profile: str = DECIDING
    """An entry of experiments/profiles.yaml: its studies, and their settings."""
    budget: str = "2h"
    """Time limit: 90m, 8h, or seconds."""
    only: str | None = None
    """Names of studies, comma-separated; default: all of the profile."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_duration(self.budget)


@dataclass(frozen=True)
class PlannedClaim:
    """A claim, and the setting and cells that test it."""

    claim: Claim
    setting: Setting
    cells: tuple[str, ...]
    """The cells of the study that the claim needs."""


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__, trial=True, trainer=True).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if runs failed, 2 bad input, 130 interrupted."""
    begin_training()
    given = read_arguments(arguments)
    options, trainer = given.options, given.trainer
    if other := other_training(trainer):
        raise ConfigError(f"claims are judged by runs with the Trainer's defaults, not with {other}; leave it out")
    root = results_root(str(options.folder), trainer)
    names = options.only.split(",") if options.only else studies_of_profile(PROFILES_FILE, options.profile)
    studies = [load_sweep(name, options.profile, options.seeds or LOOKS[-1], given.settings) for name in names]
    claims = plan_claims(load_claims(CLAIMS_FILE), studies, options.profile)
    first = [Job(cell.trials[0], root, study.name) for study in studies for cell in study.cells]
    jobs = pack_jobs(first, options, trainer)
    data = read_data([job for job in jobs if find_finished(root, job.run_id) is None])
    engine = choose_engine(options, trainer, data)
    fronts = []
    for study in studies:
        for line in make_plan(study, root, LOOKS, options.margin):
            print(line)
        planned = claims.get(study.name, [])
        comparisons = [Comparison(one.claim.id, one.cells, one.claim, margin_of(one.claim)) for one in planned]
        comparisons += compare_with_baseline(study, options.margin)
        settings = {one.claim.id: one.setting for one in planned}
        fronts.append(Undecided(study, root, comparisons, find_runs(root, settings)))
    code = run_until_decided(fronts, engine, options, options.budget, trainer)
    write_csv(root / CLAIMS, table := evaluate_claims(root))
    print(", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(table).items()))
    return code


def plan_claims(claims: Sequence[Claim], studies: Sequence[Study], profile: str) -> dict[str, list[PlannedClaim]]:
    """Study -> the claims that it decides, each in one study. Claims that no study tests by training are left out."""
    rows = pd.DataFrame([row for study in studies for row in planned_rows(study, profile)])
    index = RunIndex.of_plan(rows)
    cells = {study.name: {cell.trials[0].run_id_of(0): cell.name for cell in study.cells} for study in studies}
    planned: dict[str, list[PlannedClaim]] = {}
    for claim in claims:
        if claim.kind in ("arithmetic", "latency") or claim.untestable:
            continue
        for study, (setting, needed) in _places(claim, index, cells):
            planned.setdefault(study, []).append(PlannedClaim(claim, setting, needed))
            break
    return planned


def _places(
    claim: Claim, index: RunIndex, cells: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, tuple[Setting, tuple[str, ...]]]]:
    """Studies, settings and cells that can decide a claim: the best setting first, then the claim's own study first."""
    everywhere = ((setting, evidence_in(claim, index, setting)) for setting in settings_of(claim, index))
    found = [(setting, evidence) for setting, evidence in everywhere if evidence is not None]
    for setting, evidence in sorted(found, key=lambda one: one[1].rank):
        for study in sorted(cells, key=lambda name: name != claim.study):
            names = [cells[study].get(trial.run_id) for trial in evidence.trials]
            if all(name is not None for name in names):
                yield study, (setting, tuple(str(name) for name in names))


def find_runs(root: Path, settings: Mapping[str, Setting]) -> Callable[[Claim, int], Evidence | None]:
    """A function that finds a claim's runs in its setting: those of the first `seeds` seeds, and all published ones."""

    def find(claim: Claim, seeds: int) -> Evidence | None:
        index = index_runs(root, count_results(root), seeds)
        return None if index is None else evidence_in(claim, index, settings[claim.id])

    return find


def count_results(root: Path) -> int:
    return len(runs_with_result(root))


@lru_cache(maxsize=1)
def index_runs(root: Path, results: int, seeds: int) -> RunIndex | None:
    """The runs of `find_runs`, cached for the next claim of the study; None if there are none."""
    runs, published = read_runs(root, results), read_runs(root / PUBLISHED, 0)  # a call publishes nothing
    if runs.empty:
        return None
    known = set() if published.empty else {*zip(published["run_id"], published["device"], strict=True)}
    is_published = pd.Series([run in known for run in zip(runs["run_id"], runs["device"], strict=True)], runs.index)
    runs = runs[is_published | (runs["seed"].astype(int) < seeds)]
    return None if runs.empty else RunIndex(runs)


@lru_cache(maxsize=2)
def read_runs(folder: Path, results: int) -> pd.DataFrame:
    """Every finished run below a folder; an empty table if there is none.

    Args:
        folder: The results folder, or the published part of it.
        results: Number of results in it, a key of the cache: the runs are read again when it changes.
    """
    try:
        return load(folder, every_machine=True, plain=True) if folder.is_dir() else pd.DataFrame()
    except ConfigError:  # no finished run yet
        return pd.DataFrame()


if __name__ == "__main__":
    sys.exit(main())

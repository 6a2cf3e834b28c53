"""Trains the networks of undecided claims with many seeds, cell by cell, until the time runs out.

The published claims determine which claims are open. The profile `decide`, whose settings were chosen for them in
advance, determines which networks they need. A call continues where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from common.driver import has_ended, read_data, share_finished
from common.evaluation import DECIDING, planned_rows
from common.sweeps import CLAIMS_FILE, PUBLISHED_RESULTS, load_sweep
from common.workers import start_worker_server

from benchmarks.gpu.part import Settings
from mnet.errors import counted
from mnet.files import write_csv
from mnet.studies.claims.claims import Claim, load_claims
from mnet.studies.claims.evidence import claims_table, headlines
from mnet.studies.claims.pairs import RunIndex, find_evidence
from mnet.studies.engines import Engine, make_engine
from mnet.studies.engines.estimate import Workload, fit_rates, timed_runs, workload
from mnet.studies.engines.events import Event, Failed, Finished, Retrying
from mnet.studies.plan import LOOKS, make_plan, read_plans
from mnet.studies.results.archive import read_table
from mnet.studies.results.tables import MARGIN, write_tables
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import (
    CLAIMS,
    EXAMPLES,
    GPU_ANSWERS,
    GPU_RUNS,
    WEIGHTS,
    find_finished,
    results_root,
)
from mnet.studies.study import Cell, Study

SEEDS = (16, 32)
"""Seeds of a cell: the first number for every open claim, as one network; the second for those still undecided."""
PUBLISHED_CLAIMS = PUBLISHED_RESULTS / CLAIMS
COLUMNS = ("id", "statement", "paper_value", "ours", "low", "high", "n", "verdict", "on", "before")

RESERVE_S = 12.0
"""Seconds before the end at which training stops and writes a checkpoint."""
STALLED_S = 5.0
"""Seconds without a report from training after which the time left is checked."""

REHEARSED = "v3-small-minimalistic-accuracy"
"""The claim of a rehearsal."""
REHEARSAL: dict[str, object] = {"epochs": 1, "epoch_steps": 2, "total_stride": "paper"}
REHEARSAL_SEEDS = (2,)
REHEARSAL_TRAINER = {"limit_val_batches": 1, "limit_test_batches": 2}


class OutOfTimeError(Exception):
    """The part's time has run out."""


class PackTooLargeError(Exception):
    """A pack of this size does not fit in memory."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell to train, and the study whose folder it is trained in."""

    study: Study
    cell: Cell
    decides: tuple[str, ...]
    """Claims whose networks are all trained once this cell is."""

    @property
    def name(self) -> str:
        return f"{self.study.name}: {self.cell.name}"

    @property
    def work(self) -> Workload:
        """Workload of one seed."""
        return workload(self.cell.trials[0])


@dataclass
class Clock:
    """Estimates the time of a cell from the cells trained so far."""

    timed: list[tuple[Workload, float]] = field(default_factory=list)
    """(workload of one seed, its training time in seconds)."""

    def add(self, work: Workload, seeds: int, seconds: float) -> None:
        self.timed.append((work, seconds / seeds))

    def seconds(self, work: Workload, seeds: int) -> float:
        """Estimated seconds; 0 before anything was timed."""
        return seeds * work.seconds(work.images, fit_rates(self.timed)) if self.timed else 0.0


def run(settings: Settings) -> None:
    """Train the networks of open claims and judge the claims, until the time runs out."""
    start_worker_server()
    trainer = REHEARSAL_TRAINER if settings.rehearse else {}
    root = results_root(str(settings.out / GPU_RUNS), trainer)
    claims = open_claims(rehearse=settings.rehearse)
    if not claims:
        print("answers: no claim about accuracy is open", flush=True)
        return
    seeds = REHEARSAL_SEEDS if settings.rehearse else SEEDS
    studies = load_studies(claims, settings, seeds[-1])
    for study in studies:
        for line in make_plan(study, root, seeds if settings.rehearse else LOOKS, MARGIN):
            print(line, flush=True)
    judge = Judge(claims, studies, root, settings.out / GPU_ANSWERS)
    share_finished(studies, root)
    judge.update(studies)
    first = studies[0]
    data = read_data([Job(first.cells[0].trials[0], root, first.name)])  # all cells have the same images
    engine = make_engine("local", workers=1, data=data, trainer=trainer, checkpoint_s=60.0, stalled_s=STALLED_S)
    clock = Clock(timed_runs(root))
    claims = [claim for claim in claims if judge.verdicts.get(claim.id, "undecided") == "undecided"]
    for count in seeds:
        order = plan_cells(claims, studies)
        print(f"answers: {counted(len(claims), 'open claim')}, {len(order)} cells, {count} seeds", flush=True)
        train_cells(order, count, engine, settings, judge, clock)
        claims = [claim for claim in claims if judge.verdicts.get(claim.id) == "undecided"]


def open_claims(*, rehearse: bool = False) -> list[Claim]:
    """Claims about the accuracy of two networks whose published verdict is `undecided`; in a rehearsal one claim,
    whatever its verdict."""
    published = headlines(read_table(PUBLISHED_CLAIMS)).set_index("id")["verdict"]
    claims = [claim for claim in load_claims(CLAIMS_FILE) if claim.kind == "accuracy" and claim.pair is not None]
    if rehearse:
        return [claim for claim in claims if claim.id == REHEARSED]
    return [claim for claim in claims if published.get(claim.id) == "undecided"]


def load_studies(claims: Sequence[Claim], settings: Settings, seeds: int) -> list[Study]:
    """The studies of the claims, in the settings chosen for them; tiny in a rehearsal."""
    changed: dict[str, object] = {"data_dir": str(settings.data_dir), **(REHEARSAL if settings.rehearse else {})}
    names = dict.fromkeys(claim.study for claim in claims)
    return [load_sweep(name, DECIDING, seeds, changed) for name in names]


def plan_cells(claims: Sequence[Claim], studies: Sequence[Study]) -> list[PlannedCell]:
    """The cells that the claims need, in the order of training.

    The next cells are always those of the claim that gets the most claims decided per multiply-add: the baseline of its
    study, then its own two networks, each once. A claim whose networks are in no study is left out.
    """
    cells = {cell.trials[0].run_id_of(0): (study, cell) for study in reversed(studies) for cell in study.cells}
    planned = pd.DataFrame([row for study in studies for row in planned_rows(study, DECIDING)])
    index = RunIndex.of_plan(planned)
    baselines = {study.name: study.cells[0].trials[0].run_id_of(0) for study in studies}
    needs: dict[str, tuple[str, ...]] = {}
    for claim in claims:
        evidence = next(iter(find_evidence(claim, index)), None)
        if evidence is not None and evidence.models[0] == evidence.models[1]:
            compared = (trial.run_id_of(0) for trial in evidence.trials)
            needs[claim.id] = tuple(dict.fromkeys((baselines[claim.study], *compared)))
    order: list[PlannedCell] = []
    chosen: set[str] = set()

    def decided_by(more: Sequence[str]) -> tuple[str, ...]:
        return tuple(claim for claim, cells in needs.items() if chosen.union(more).issuperset(cells))

    def worth(claim: str) -> float:
        new = [cell for cell in needs[claim] if cell not in chosen]
        return len(decided_by(new)) / sum(workload(cells[cell][1].trials[0]).madds for cell in new)

    while needs:
        for cell in needs[max(needs, key=worth)]:
            if cell not in chosen:
                order.append(PlannedCell(*cells[cell], decided_by([cell])))
                chosen.add(cell)
                needs = {claim: needed for claim, needed in needs.items() if claim not in order[-1].decides}
    return order


def train_cells(
    order: Sequence[PlannedCell], seeds: int, engine: Engine, settings: Settings, judge: Judge, clock: Clock
) -> list[str]:
    """Train `seeds` seeds of each cell. A cell that would not end in time is left out; later ones may be smaller.

    Returns:
        The names of the cells that this call trained.
    """
    trained: list[str] = []
    pack = SEEDS[0]
    for planned in order:
        jobs = _unfinished(planned, seeds, judge.root)
        if not jobs:
            continue
        left = _left_s(settings)
        needed = clock.seconds(planned.work, len(jobs))
        if left <= 0 and not settings.rehearse:
            break
        if needed > left and not settings.rehearse:
            print(f"{planned.name}: left out, it needs about {needed:.0f} s and {left:.0f} s are left", flush=True)
            continue
        try:
            while True:
                try:
                    _train(jobs, pack, engine, settings)
                    break
                except PackTooLargeError as error:
                    if pack == 1:
                        raise
                    pack //= 2
                    print(f"{planned.name}: {error}; training {pack} seeds at once from now on", flush=True)
                    jobs = _unfinished(planned, seeds, judge.root)
        except OutOfTimeError:
            print(f"{planned.name}: stopped, the time has run out; the same command continues it", flush=True)
            break
        finished = sum(find_finished(judge.root, job.run_id) is not None for job in jobs)
        if not finished:  # all failed; each run's reason was printed
            continue
        seconds = left - _left_s(settings)
        clock.add(planned.work, len(jobs), seconds)
        trained.append(planned.name)
        rest = max(0.0, _left_s(settings))
        print(f"{planned.name}: {finished} runs in {seconds:.0f} s; {rest:.0f} s left", flush=True)
        _finish(planned, judge)
    return trained


def _left_s(settings: Settings) -> float:
    """Seconds of training left; a rehearsal, which is short, ignores them."""
    return settings.left_s - RESERVE_S


def _unfinished(planned: PlannedCell, seeds: int, root: Path) -> list[Job]:
    """The first `seeds` runs of a cell, except those that have finished or diverged."""
    jobs = [Job(trial, root, planned.study.name) for trial in planned.cell.trials[:seeds]]
    return [job for job in jobs if not has_ended(job)]


def _train(jobs: Sequence[Job], pack: int, engine: Engine, settings: Settings) -> None:
    """Train jobs as packs until they end or the time runs out.

    Raises:
        OutOfTimeError: The time has run out.
        PackTooLargeError: The memory is too small.
    """
    reasons: set[str] = set()

    def on_event(event: Event) -> None:
        if isinstance(event, Retrying):
            raise PackTooLargeError(event.reason)
        if isinstance(event, Failed) and event.reason not in reasons:
            reasons.add(event.reason)
            print(f"seed {event.job.trial.seed} failed: {event.reason}", flush=True)
        if not isinstance(event, Finished | Failed) and _left_s(settings) <= 0 and not settings.rehearse:
            raise OutOfTimeError

    engine.run([Job(job.trial, job.root, job.study, pack) for job in jobs], on_event)


def _finish(planned: PlannedCell, judge: Judge) -> None:
    """Share the runs of a cell with the other studies that contain it, and judge the claims that they decide."""
    trained = {trial.run_id for trial in planned.cell.trials}
    for trial in planned.cell.trials:
        folder = Job(trial, judge.root, planned.study.name).folder
        for name in (WEIGHTS, EXAMPLES):  # gigabytes for hundreds of runs, which no table needs
            (folder / name).unlink(missing_ok=True)
    users = [study for study in judge.studies if trained & {trial.run_id for _, trial in study.trials}]
    share_finished(users, judge.root)
    judge.update(users)


class Judge:
    """The tables of the studies, and the verdicts that follow from them."""

    def __init__(self, claims: Sequence[Claim], studies: Sequence[Study], root: Path, path: Path) -> None:
        """
        Args:
            claims: The open claims.
            studies: Their studies.
            root: The results folder.
            path: The table of verdicts.
        """
        self.claims, self.studies, self.root, self.path = claims, studies, root, path
        self.before = headlines(read_table(PUBLISHED_CLAIMS)).set_index("id")["verdict"]
        self.planned = pd.DataFrame([row for study in studies for row in planned_rows(study, DECIDING)])
        self.runs: dict[str, pd.DataFrame] = {}
        """Study -> its finished runs."""
        self.verdicts: dict[str, str] = {}

    def update(self, studies: Sequence[Study]) -> None:
        """Write the tables of studies with new runs, and the verdicts; print the new verdicts."""
        for study in studies:
            runs = write_tables(study, self.root).runs
            if not runs.empty:
                self.runs[study.name] = runs
        if not self.runs:
            return
        table = claims_table(
            self.claims,
            runs=pd.concat(self.runs.values(), ignore_index=True),
            planned=self.planned,
            latencies={},
            plans={study.name: read_plans(self.root / study.name) for study in self.studies},
            chosen=set(self.planned["run_id"]),
        )
        judged = headlines(table)
        judged = judged[judged["n"].notna()]
        judged = judged.assign(before=judged["id"].map(self.before))[list(COLUMNS)]
        write_csv(self.path, judged)
        for row in judged.itertuples():
            if self.verdicts.get(str(row.id)) != row.verdict:
                interval = f"{row.ours:+.2f} [{row.low:.2f}, {row.high:.2f}] points, n={row.n:.0f}"
                print(f"{row.id}: {row.before} before, now {row.verdict}: {interval}", flush=True)
            self.verdicts[str(row.id)] = str(row.verdict)

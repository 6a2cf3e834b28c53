"""Seeds until studies and claims are decided: which runs come next, and when to stop.

Every study has a plan of looks: numbers of seeds at which it is analysed. Between two looks, all cells of its open
comparisons get their next seeds. Decisions depend on finished runs alone, so a killed call continues with the same
numbers.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from common.driver import (
    RunOptions,
    find_unfinished,
    finish_studies,
    has_ended,
    pack_jobs,
    share_finished,
)
from common.progress import Display
from common.rates import measured_rates
from common.terminal import format_duration
from mnet.errors import ConfigError
from mnet.studies.claims.claims import Claim
from mnet.studies.claims.pairs import Evidence
from mnet.studies.claims.verdicts import judge_difference
from mnet.studies.engines import Engine
from mnet.studies.engines.estimate import Rates, trial_seconds
from mnet.studies.engines.events import Event, Failed, Finished
from mnet.studies.engines.local import default_workers
from mnet.studies.plan import looks_of
from mnet.studies.results.decide import differences, judge
from mnet.studies.results.effects import ALL, Column, columns_of, compare_values
from mnet.studies.results.statistics import table_by_seed
from mnet.studies.results.table_view import format_interval, format_number
from mnet.studies.results.tables import MARGIN, WITHIN, runs_table, write_tables
from mnet.studies.results.tables import margin_of as margin_of_study
from mnet.studies.runs.job import Job
from mnet.studies.study import Cell, Study

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
OF_A_STUDY = 0.25
"""Weight of a comparison that belongs to no claim; a claim has 1."""
FAILED = "no runs"
"""The verdict of a comparison that has no value because the trainings of a cell fail."""
UNKNOWN = 0.5
"""The assumed chance of a decision at a study's first look."""


class OutOfBudgetError(Exception):
    """The time budget has run out."""


@dataclass
class Comparison:
    """A difference, open or decided: of a cell to the baseline, or of a claim."""

    name: str
    cells: tuple[str, ...]
    """The cells that it needs."""
    claim: Claim | None = None
    margin: float = MARGIN
    delta: float = math.nan
    se: float = math.nan
    low: float = math.nan
    high: float = math.nan
    verdict: str = "undecided"
    more_seeds: float = math.nan
    """Expected seeds to a decision, beyond those analysed."""

    def update(self, row: pd.Series, seeds: int) -> None:
        """Update from a row of `decide.judge`, after `seeds` seeds: for a claim, those of all machines together."""
        self.delta, self.se, self.low, self.high = (float(row[name]) for name in ("delta", "se", "low", "high"))
        self.more_seeds = float(row["seeds_needed"]) - seeds
        self.verdict = str(row["verdict"])
        if self.claim is not None:
            self.verdict = judge_difference(self.claim, self.delta, self.low, self.high)

    @property
    def is_open(self) -> bool:
        return self.verdict == "undecided"

    @property
    def weight(self) -> float:
        """How much a decision is worth, relative to that of a claim."""
        return 1.0 if self.claim is not None else OF_A_STUDY

    def chance(self, look: int, following: int) -> float:
        """The chance that the next look decides, given the present estimate and its standard error.

        An interval decides if it lies within the margin, or beyond zero; for a claim of equality, beyond the margin.

        Args:
            look: Seeds so far.
            following: Seeds at the next look.
        """
        if not look or not self.se > 0:
            return UNKNOWN
        edge = self.margin if self.claim is not None and self.claim.direction == "flat" else 0.0
        reach = (self.high - self.low) / 2 * math.sqrt(look / following)
        spread = self.se * math.sqrt(1 - look / following)

        def between(low: float, high: float) -> float:
            return float(np.diff(stats.norm.cdf([low, high], self.delta, spread))[0]) if low < high else 0.0

        within, beyond = self.margin - reach, edge + reach
        inside = between(max(-within, -beyond), min(within, beyond))
        return between(beyond, math.inf) + between(-math.inf, -beyond) + inside

    def describe(self) -> str:
        if math.isnan(self.low):
            return f"{self.name}: {self.verdict if self.verdict == FAILED else 'not analysed yet'}"
        interval = f"{format_number(self.delta, sign=True)} {format_interval(self.low, self.high, sign=True)}"
        return f"{self.name}: {interval}, {self.verdict}"


@dataclass
class Undecided:
    """A study and its progress from look to look."""

    study: Study
    """The study, with as many seeds as its last look."""
    root: Path
    comparisons: list[Comparison]
    evidence: Callable[[Claim, int], Evidence | None] | None = None
    """(claim, seeds) -> the runs that test the claim: the first `seeds` seeds of this folder, and published runs."""
    next: int = 0
    """Index of the next look."""
    done: bool = field(default=False, init=False)
    """Nothing is open, or no look is left."""
    planned: tuple[int, ...] = field(init=False)
    """All looks of the plan, over which the error rate holds."""
    looks: tuple[int, ...] = field(init=False)
    """Those that the study has seeds for."""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigError: The study has no plan yet, or fewer seeds than its first look.
        """
        looks = looks_of(self.study, self.root)
        if looks is None:
            raise ConfigError(f"{self.study.name} has no plan in {self.root}; make_plan writes one")
        most = max(len(cell.trials) for cell in self.study.cells)
        self.planned, self.looks = looks, tuple(look for look in looks if look <= most)
        if not self.looks:
            raise ConfigError(f"{self.study.name} is planned for {looks[0]} seeds, not {most}; give SEEDS={looks[0]}")
        self._judge_claims(0)  # by published runs

    @property
    def open(self) -> list[Comparison]:
        return [comparison for comparison in self.comparisons if comparison.is_open]

    @property
    def due(self) -> list[Comparison]:
        """The open comparisons that the next seeds are for: claims first, if there are any."""
        claims = [comparison for comparison in self.open if comparison.claim is not None]
        return claims or self.open

    @property
    def look(self) -> int:
        """Seeds at the last look."""
        return self.looks[self.next - 1] if self.next else 0

    def jobs(self) -> list[Job]:
        """All runs that the next look needs, finished or not, seed by seed."""
        needed = {name for comparison in self.due for name in comparison.cells}
        cells = [cell for cell in self.study.cells if cell.name in needed]
        seeds = self.looks[self.next]
        return [Job(cell.trials[i], self.root, self.study.name) for i in range(seeds) for cell in cells]

    def advance(self) -> None:
        """Judge every look whose runs have all ended, until one needs runs or nothing is open."""
        while self.open and self.next < len(self.looks):
            if any(not has_ended(job) for job in self.jobs()):
                return
            self.next += 1
            self._judge()
        self.done = True

    def _judge(self) -> None:
        runs = runs_table(self.study, self.root)
        runs = runs[runs["seed"].astype(int) < self.look]
        plain = [one for one in self.comparisons if one.claim is None]
        rows = self._rows(runs, plain) if plain and not runs.empty else {}
        for comparison in plain:
            if not comparison.is_open:
                continue
            if (row := rows.get(comparison.cells)) is not None and not math.isnan(row["low"]):
                comparison.update(row, self.look)
            else:
                comparison.verdict = FAILED
        self._judge_claims(self.look)

    def _rows(self, runs: pd.DataFrame, plain: Sequence[Comparison]) -> dict[tuple[str, ...], pd.Series]:
        """The rows of `decide.judge`, as the tables of the study have them, by cells."""
        margin = margin_of_study(self.study, self.root, plain[0].margin)
        if WITHIN in self.study.varied:
            cells = {place: cell for cell, place in columns_of(self.study, WITHIN).items()}
            table = compare_values(self.study, runs, WITHIN, margin, self.planned)
            pairs = [row for _, row in table[table["variant"] != ALL].iterrows()]
            ends = [[Column(row["variant"], row[end]) for end in ("value", "against")] for row in pairs]
            return {(cells[value], cells[against]): row for (value, against), row in zip(ends, pairs, strict=True)}
        names = [cell.name for cell in self.study.cells]
        values = table_by_seed(runs, str(runs["cell"].iloc[0]), self.study.task.headline.name).reindex(columns=names)
        contrasts = differences(values, [(one.cells[0], one.cells[1]) for one in plain])
        table = judge(values, contrasts, margin=margin, looks=self.planned)
        return {one.cells: row for one, (_, row) in zip(plain, table.iterrows(), strict=True)}

    def _judge_claims(self, seeds: int) -> None:
        for comparison in self.open:
            if comparison.claim is not None and self.evidence is not None:
                evidence = self.evidence(comparison.claim, seeds)
                if evidence is not None and evidence.n >= self.planned[0]:  # as in `evidence.claims_table`
                    comparison.update(evidence.judge(comparison.claim, self.planned), evidence.n)

    def seconds(self, rates: Rates) -> float:
        """Seconds of one worker to the next look."""
        return sum(trial_seconds(job.trial, rates) for job in self.jobs() if not has_ended(job))

    def worth(self, rates: Rates) -> float:
        """Decisions expected from the next look, weighted, per second of work."""
        following = self.looks[self.next]
        chances = sum(one.weight * one.chance(self.look, following) for one in self.due)
        return chances / max(self.seconds(rates), 1.0)

    def minutes_to_decide(self, comparison: Comparison, rates: Rates, workers: int) -> float:
        """Expected minutes until a comparison is decided; nan if unknown."""
        cells = [cell for cell in self.study.cells if cell.name in comparison.cells]
        return comparison.more_seeds * sum(trial_seconds(cell.trials[0], rates) for cell in cells) / workers / 60


def compare_with_baseline(study: Study, margin: float) -> list[Comparison]:
    """A comparison with the baseline for every other network. If cells are compared within their networks, each value
    with every earlier one of the same network."""
    if WITHIN in study.varied:
        places = columns_of(study, WITHIN).items()
        return [
            Comparison(f"{study.name}: {cell} - {against.value}", (cell, other), margin=margin)
            for (other, against), (cell, place) in itertools.combinations(places, 2)
            if place.variant == against.variant
        ]
    cells = [cell for cell in study.cells[1:] if not _same_network(cell, study.cells[0])]
    return [Comparison(f"{study.name}: {cell.name}", (cell.name, study.baseline), margin=margin) for cell in cells]


def _same_network(cell: Cell, other: Cell) -> bool:
    return cell.trials[0].run_id_of(0) == other.trials[0].run_id_of(0)


def read_duration(text: str | None) -> float:
    """Seconds from a text such as 90m, 2h or 600; None = no limit.

    Raises:
        ConfigError: The text is not a time above 0.
    """
    if text is None:
        return math.inf
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ConfigError(f"budget must be a time such as 90m, 2h or 600 (seconds), not {text}")
    return seconds


def run_until_decided(
    fronts: Sequence[Undecided],
    engine: Engine,
    options: RunOptions,
    budget: str | None,
    trainer: Mapping[str, object],
) -> int:
    """Train the seeds that bring the most decisions per second, until all is decided or the budget runs out.

    Args:
        fronts: The studies, each with its plan.
        engine: Where runs are trained.
        options: Options of the call.
        budget: The time limit, as for `read_duration`.
        trainer: Arguments of Lightning's Trainer.

    Returns:
        The exit code: 0, or 1 if runs failed.
    """
    gc.freeze()  # as in `run_studies`
    deadline = time.monotonic() + read_duration(budget)
    studies, root = [front.study for front in fronts], fronts[0].root
    failed: dict[str, Failed] = {}
    _decide(fronts, engine, options, deadline, trainer, failed)
    return finish_studies(studies, root, options, list(failed.values()))


def _decide(
    fronts: Sequence[Undecided],
    engine: Engine,
    options: RunOptions,
    deadline: float,
    trainer: Mapping[str, object],
    failed: dict[str, Failed],
) -> None:
    workers = options.workers or default_workers()
    studies, root = [front.study for front in fronts], fronts[0].root
    share_finished(studies, root)
    for front in fronts:
        front.advance()
    while time.monotonic() < deadline:
        waiting = [front for front in fronts if not front.done and not _all_failed(front, failed)]
        if not waiting:
            break
        now = measured_rates(root)
        front = max(waiting, key=lambda one: one.worth(now))
        for line in _report(fronts, front, now, workers):
            print(line, flush=True)
        failed |= _train(front, studies, engine, options, deadline, trainer)
        for one in fronts:
            was = {comparison.name: comparison.verdict for comparison in one.comparisons}
            one.advance()
            for comparison in one.comparisons:
                if comparison.verdict != was[comparison.name]:
                    print(f"  decided after {one.look} seeds: {comparison.describe()}", flush=True)


def _all_failed(front: Undecided, failed: Mapping[str, Failed]) -> bool:
    return all(has_ended(job) or job.run_id in failed for job in front.jobs())


def _train(
    front: Undecided,
    studies: Sequence[Study],
    engine: Engine,
    options: RunOptions,
    deadline: float,
    trainer: Mapping[str, object],
) -> dict[str, Failed]:
    """Train what a study's next look needs; runs interrupted at the deadline keep their checkpoints."""
    jobs = pack_jobs(front.jobs(), options, trainer)
    todo = find_unfinished(jobs)
    failed: dict[str, Failed] = {}
    with Display([front.study], jobs, todo) as display:

        def on_event(event: Event) -> None:
            display.on_event(event)
            if isinstance(event, Failed):
                failed[event.job.run_id] = event
            if isinstance(event, Finished | Failed):
                write_tables(front.study, front.root, margin=options.margin)
            elif time.monotonic() >= deadline:
                raise OutOfBudgetError

        try:
            engine.run(todo, on_event)
        except OutOfBudgetError:
            print("the time budget has run out; finished runs and checkpoints are kept", flush=True)
    users = [study for study in studies if {job.run_id for job in jobs} & {trial.run_id for _, trial in study.trials}]
    share_finished(users, front.root)
    for study in users:
        write_tables(study, front.root, margin=options.margin)
    return failed


def _report(fronts: Sequence[Undecided], front: Undecided, rates: Rates, workers: int) -> Iterator[str]:
    """Report what is decided, what is open, and what comes next."""
    comparisons = [comparison for one in fronts for comparison in one.comparisons]
    still = Counter({one.study.name: len(one.open) for one in fronts if one.open})
    places = ", ".join(f"{name} {count}" for name, count in still.most_common())
    yield f"decided: {len(comparisons) - still.total()} of {len(comparisons)}; open: {places}"
    duration = format_duration(front.seconds(rates) / workers)
    yield f"next: {front.study.name} to {front.looks[front.next]} seeds, {duration}, for"
    for comparison in front.due:
        minutes = front.minutes_to_decide(comparison, rates, workers)
        seeds = f"about {comparison.more_seeds:.0f} more seeds, {format_duration(60 * minutes)}"
        yield f"  {comparison.describe()}{'' if math.isnan(minutes) else f'; {seeds}'}"
    for other in fronts:
        expected = {one.name: other.minutes_to_decide(one, rates, workers) for one in other.due}
        known = [f"{name} {format_duration(60 * minutes)}" for name, minutes in expected.items() if minutes > 0]
        if other is not front and known:
            yield f"then {other.study.name}: {', '.join(known)}"

"""Simulates how often studies without an effect are called up or down, and how many seeds a decision takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from mnet.studies.plan import LOOKS
from mnet.studies.results.estimates import Family, estimate
from mnet.studies.results.looks import CHUNK, follow, thresholds
from mnet.studies.results.statistics import LEVEL
from mnet.studies.results.tables import MARGIN

CELLS = 4
STUDIES = 10_000
SD = 0.38
"""Standard deviation in points of the runs of one cell on the quick profile; see results/published."""
MISSING = 0.1
"""Share of missing runs, in scenarios that have some."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """How the runs of a study are drawn."""

    name: str
    effect: float = 0.0
    """Difference of the other cells from the baseline, in points."""
    seeds: float = 0.0
    """Standard deviation of the effects of seeds, in points."""
    wide: int | None = None
    """Index of a cell with three times the spread."""
    draw: Draw = np.random.Generator.standard_normal
    missing: bool = False

    def runs(self, studies: int, seed: int = 0) -> np.ndarray:
        """Draw top-1 values of shape (studies, seeds, cells); NaN = missing."""
        random = np.random.default_rng(seed)
        values = SD * self.draw(random, (studies, LOOKS[-1], CELLS))
        if self.wide is not None:
            values[..., self.wide] *= 3
        values[..., 1:] += self.effect
        values += random.normal(0, self.seeds, (studies, LOOKS[-1], 1)) if self.seeds else 0
        if self.missing:
            values[:, random.random(values.shape[1:]) < MISSING] = np.nan
        return values


def _t5(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_t(5, shape)


SCENARIOS = (
    Scenario("no effect"),
    Scenario("no effect, seeds have one", seeds=SD),
    Scenario("no effect, a cell of 3 times the spread", wide=2),
    Scenario("no effect, a baseline of 3 times the spread", wide=0),
    Scenario("no effect, tails of a t distribution with 5 df", draw=_t5),
    Scenario("no effect, a tenth of the runs missing", missing=True),
    Scenario("no effect, a tenth missing, seeds have one", missing=True, seeds=SD),
    Scenario("effect of 0.5 points", effect=0.5),
    Scenario("effect of 1 point", effect=1.0),
)


class Verdicts(NamedTuple):
    """Verdict and interval of every comparison at every look: arrays of shape (looks, studies, comparisons)."""

    words: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Outcome(NamedTuple):
    wrong: float
    """Share of studies in which a comparison without effect is called up or down at some look."""
    coverage: float
    """The lowest share, over looks and comparisons, of intervals that cover the truth."""
    seeds: float
    """Mean seeds to a decision; an undecided comparison counts with the seeds of the last look."""
    undecided: float
    """Share of comparisons that no look decides."""


def by_decide(values: np.ndarray) -> Verdicts:
    """The rule of `mnet.studies.decide`."""
    cells = values.shape[2]
    family = Family((0,) * cells, tuple(map(tuple, np.hstack([-np.ones((cells - 1, 1)), np.eye(cells - 1)]).tolist())))
    limits = thresholds(family, LOOKS)
    chunks = [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]
    parts = []
    for chunk in chunks:
        estimates = [estimate(chunk[:, :look], family) for look in LOOKS]
        judged = [follow(estimates[: i + 1], LOOKS, limits, MARGIN) for i in range(len(LOOKS))]
        parts.append([np.stack([getattr(one, name) for one in judged]) for name in ("verdict", "low", "high")])
    return Verdicts(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def by_pairs(values: np.ndarray) -> Verdicts:
    """The rule of `paired_deltas`: a paired t test per cell, Holm's correction over cells, and none over looks."""
    looks = []
    for look in LOOKS:
        deltas = values[:, :look, 1:] - values[:, :look, :1]
        n = np.isfinite(deltas).sum(axis=1)
        mean, se = np.nanmean(deltas, axis=1), np.nanstd(deltas, axis=1, ddof=1) / np.sqrt(n)
        reach = stats.t.isf((1 - LEVEL) / 2, n - 1) * se
        low, high = mean - reach, mean + reach
        p = 2 * stats.t.sf(np.abs(mean / se), n - 1)
        order = np.argsort(p, axis=1)
        steps = np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1)
        holm = np.empty_like(p)
        np.put_along_axis(holm, order, np.maximum.accumulate(steps, axis=1), 1)
        words = np.select(
            [(low > -MARGIN) & (high < MARGIN), (holm < 1 - LEVEL) & (low > 0), (holm < 1 - LEVEL) & (high < 0)],
            ["flat", "up", "down"],
            "undecided",
        )
        looks.append((words, low, high))
    return Verdicts(*(np.stack(part) for part in zip(*looks, strict=True)))


RULES: dict[str, Callable[[np.ndarray], Verdicts]] = {"decide": by_decide, "paired t, Holm": by_pairs}


def summarise(verdicts: Verdicts, scenario: Scenario, looks: Sequence[int] = LOOKS) -> Outcome:
    decided = verdicts.words != "undecided"
    first = decided.argmax(axis=0)
    word = np.take_along_axis(verdicts.words, first[None], 0)[0]  # looks after a decision are ignored
    ended = decided.any(axis=0)
    wrong = ((word == "up") | (word == "down")).any(axis=1) if scenario.effect == 0 else np.zeros(1)
    covered = (verdicts.low <= scenario.effect) & (scenario.effect <= verdicts.high)
    return Outcome(
        wrong=float(wrong.mean()),
        coverage=float(covered.mean(axis=1).min()),
        seeds=float(np.where(ended, np.array(looks)[first], looks[-1]).mean()),
        undecided=float(1 - ended.mean()),
    )


def rows(studies: int = STUDIES) -> Iterator[dict[str, object]]:
    """A row for each scenario and rule."""
    for scenario in SCENARIOS:
        values = scenario.runs(studies)
        for name, rule in RULES.items():
            yield {"studies": scenario.name, "rule": name, **summarise(rule(values), scenario)._asdict(), "n": studies}

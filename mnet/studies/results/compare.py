"""Two runs beside each other: what differs in settings, code and machine, and by how much their results do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from mnet.errors import text
from mnet.studies.results.archive import is_known
from mnet.studies.results.finished import RESOLVED
from mnet.studies.results.lookup import Run
from mnet.studies.results.revisions import REPOSITORY, History, history_between
from mnet.studies.results.statistics import LEVEL
from mnet.studies.results.tables import TIMING
from mnet.studies.runs.store import read_correct
from mnet.tasks import TASKS

CODE = ("mnet", "revision")
MACHINE = ("torch", "device", "threads")
COST = ("params", "madds")
UNITS: Mapping[str, str] = {
    **{metric.name: "points" for task in TASKS.values() for metric in task.metrics},
    "test_loss": "",
    **{f"val_{task.headline.name}": "points" for task in TASKS.values()},
    "val_loss": "",
    "train_seconds": "s",
    "images_per_second": "1/s",
}
"""Result -> the unit of a difference."""


@dataclass(frozen=True)
class Difference:
    """What is not the same in both; None where it is not known."""

    name: str
    a: object
    b: object


@dataclass(frozen=True)
class Change:
    """A number of both results."""

    name: str
    a: float
    b: float

    @property
    def delta(self) -> float:
        return self.b - self.a

    @property
    def unit(self) -> str:
        return UNITS[self.name]


@dataclass(frozen=True)
class PairedImages:
    """Two networks on the same test images."""

    count: int
    only_a: int
    """PairedImages that A alone had right."""
    only_b: int
    low: float
    """Of the interval of B - A in points, level `LEVEL`, by Wald with Bonett and Price's adjustment."""
    high: float
    p: float
    """Of McNemar's exact test."""

    @property
    def delta(self) -> float:
        """Points, B - A."""
        return 100 * (self.only_b - self.only_a) / self.count


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    a: Run
    b: Run
    settings: tuple[Difference, ...]
    resolved: tuple[Difference, ...]
    """Cost and recipe, which follow from the settings."""
    code: tuple[Difference, ...]
    history: History | None
    """None where both are of the same revision."""
    machine: tuple[Difference, ...]
    results: tuple[Change, ...]
    images: PairedImages | None
    """None where one did not keep which images it had right, or they are not the same images."""
    conclusion: tuple[str, ...] = ()
    """Sentences."""

    @property
    def same(self) -> bool:
        """Whether it is one run, named twice or copied: even the seconds agree."""
        equal = all(one.a == one.b for one in self.results)
        return equal and not (self.settings or self.resolved or self.code or self.machine)


def compare(a: Run, b: Run, repository: Path = REPOSITORY) -> Comparison:
    """What differs between two runs, and by how much.

    Args:
        a: The run that differences start from.
        b: The run that they lead to.
        repository: A checkout whose history is asked for both revisions.

    Raises:
        ConfigError: A run has settings that this mnet does not know.
    """
    recipes = [{name: value for name, value in asdict(run.recipe).items() if name not in RESOLVED} for run in (a, b)]
    revisions = [str(run.row.get("revision") or "") for run in (a, b)]
    found = Comparison(
        a,
        b,
        settings=differences(a.settings, b.settings),
        resolved=(*differences(a.row, b.row, COST), *differences(*recipes)),
        code=differences(a.row, b.row, CODE),
        history=None if revisions[0] == revisions[1] else history_between(revisions[0], revisions[1], repository),
        machine=differences(a.row, b.row, MACHINE),
        results=tuple(
            Change(name, float(str(a.row[name])), float(str(b.row[name])))
            for name in UNITS
            if is_known(a.row.get(name)) and is_known(b.row.get(name))
        ),
        images=same_images(a, b),
    )
    return replace(found, conclusion=conclusion(found))


def differences(
    a: Mapping[str, object], b: Mapping[str, object], names: Iterable[str] | None = None
) -> tuple[Difference, ...]:
    """Where two mappings differ, among `names` or all that one of them has."""
    found = [Difference(name, a.get(name), b.get(name)) for name in (names or {**a, **b})]
    return tuple(one for one in found if (is_known(one.a) or is_known(one.b)) and written(one.a) != written(one.b))


def written(value: object) -> str:
    """A value as it is shown: 1,527,818 and 0.2 whatever the type, `paper` for None."""
    if not is_known(value):
        return text(None)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"{value:,.10g}" if number else text(value)


def same_images(a: Run, b: Run) -> PairedImages | None:
    """The comparison on the same test images; None where it is not known that they are the same."""
    if a.folder is None or b.folder is None or a.row["dataset"] != b.row["dataset"]:
        return None
    right = [read_correct(run.folder) for run in (a, b) if run.folder is not None]
    if right[0] is None or right[1] is None or len(right[0]) != len(right[1]):
        return None
    return None if a.settings.get("data_dir") != b.settings.get("data_dir") else paired_images(right[0], right[1])


def paired_images(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> PairedImages:
    """Two networks on the same N > 0 images.

    Args:
        a: Which images A had right, (N,) bool.
        b: Which B had right, in the same order.
        level: Of the interval.

    Source: D. G. Bonett, R. M. Price: Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data. J. Educ. Behav. Stat. 37 (2012); recommended by Fagerland, Lydersen and Laake, Stat. Med. 33 (2014).
    """
    count, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    share_a, share_b = (only_a + 1) / (count + 2), (only_b + 1) / (count + 2)
    delta = share_b - share_a
    error = math.sqrt((share_a + share_b - delta**2) / (count + 2))
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    low, high = max(-1.0, delta - reach), min(1.0, delta + reach)
    p = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
    return PairedImages(count, only_a, only_b, 100 * low, 100 * high, p)


def conclusion(found: Comparison) -> tuple[str, ...]:
    """What may be said of it, in sentences."""
    names = [one.name for one in found.settings]
    changed = [one.name for one in found.results if one.a != one.b]
    elsewhere = bool(found.code or found.machine)
    if found.same:
        return ("A and B are the same run.",)
    respelled = found.a.run_id == found.b.run_id and not any(name.startswith("trainer.") for name in names)
    if not names or respelled:
        settings = "two spellings of the same settings" if names else "the same settings"
        results = "other results" if set(changed) - set(TIMING) else "the same results"
        return (f"A and B are {settings} with the same seed, trained twice, to {results}.",)
    if names == ["seed"]:
        but = ", but code or machine do" if elsewhere else ": by so much, runs of the same settings differ"
        return (f"Of the settings nothing but the seed differs{but}.", STUDY)
    return (SEEDS, STUDY)


SEEDS = "Two single runs differ also by their seed: each, trained again from another one, would come out otherwise."
STUDY = "Whether settings make a difference a study answers, with several seeds of both: make ablate-<study> SEEDS=5."

"""Two runs compared: differences in settings, code and environment, and in their results."""

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
ENVIRONMENT = ("torch", "device", "threads")
COST = ("params", "madds")
UNITS: Mapping[str, str] = {
    **{metric.name: "points" for task in TASKS.values() for metric in task.metrics},
    "test_loss": "",
    **{f"val_{task.headline.name}": "points" for task in TASKS.values()},
    "val_loss": "",
    "train_seconds": "s",
    "images_per_second": "1/s",
}
"""Result -> unit of its difference."""


@dataclass(frozen=True)
class Difference:
    """A value that differs between two runs; None for a run that lacks it."""

    name: str
    a: object
    b: object


@dataclass(frozen=True)
class Change:
    """A number in both results."""

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
    """Images that A alone classified correctly."""
    only_b: int
    low: float
    """Lower end of the `LEVEL` interval of B - A in points: Wald with Bonett and Price's adjustment."""
    high: float
    p: float
    """The p of McNemar's exact test."""

    @property
    def delta(self) -> float:
        """B - A in points."""
        return 100 * (self.only_b - self.only_a) / self.count


@dataclass(frozen=True)
class Comparison:
    """Two runs, and everything that differs between them."""

    a: Run
    b: Run
    settings: tuple[Difference, ...]
    resolved: tuple[Difference, ...]
    """Differences in cost and recipe, which follow from the settings."""
    code: tuple[Difference, ...]
    history: History | None
    """None if both have the same revision."""
    environment: tuple[Difference, ...]
    """Differences in hardware, threads and torch."""
    results: tuple[Change, ...]
    images: PairedImages | None
    """None unless both runs recorded which test images they classified correctly, on the same images."""
    conclusion: tuple[str, ...] = ()
    """What the comparison shows, in sentences."""

    @property
    def same(self) -> bool:
        """Whether both are one run, named twice or copied: even the training times agree."""
        equal = all(change.a == change.b for change in self.results)
        return equal and not (self.settings or self.resolved or self.code or self.environment)


def compare(a: Run, b: Run, repository: Path = REPOSITORY) -> Comparison:
    """Compare two runs.

    Args:
        a: A run; differences are B - A.
        b: The other run.
        repository: A checkout with the history of both revisions.

    Raises:
        ConfigError: A run has settings that this version of mnet does not know.
    """
    recipes = [{name: value for name, value in asdict(run.recipe).items() if name not in RESOLVED} for run in (a, b)]
    revisions = [str(run.row.get("revision") or "") for run in (a, b)]
    comparison = Comparison(
        a,
        b,
        settings=_differences(a.settings, b.settings),
        resolved=(*_differences(a.row, b.row, COST), *_differences(*recipes)),
        code=_differences(a.row, b.row, CODE),
        history=None if revisions[0] == revisions[1] else history_between(revisions[0], revisions[1], repository),
        environment=_differences(a.row, b.row, ENVIRONMENT),
        results=tuple(
            Change(name, float(str(a.row[name])), float(str(b.row[name])))
            for name in UNITS
            if is_known(a.row.get(name)) and is_known(b.row.get(name))
        ),
        images=_same_images(a, b),
    )
    return replace(comparison, conclusion=_conclude(comparison))


def _differences(
    a: Mapping[str, object], b: Mapping[str, object], names: Iterable[str] | None = None
) -> tuple[Difference, ...]:
    """The entries in which two mappings differ, among `names` or else all names in either."""
    pairs = [Difference(name, a.get(name), b.get(name)) for name in (names or {**a, **b})]
    return tuple(
        pair
        for pair in pairs
        if (is_known(pair.a) or is_known(pair.b)) and format_value(pair.a) != format_value(pair.b)
    )


def format_value(value: object) -> str:
    """A value as text: `1,527,818` or `0.2` for any type of number, `paper` for None."""
    if not is_known(value):
        return text(None)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"{value:,.10g}" if number else text(value)


def _same_images(a: Run, b: Run) -> PairedImages | None:
    """Compare image by image; None if a run did not record its correct images, or the images may differ."""
    if a.folder is None or b.folder is None or a.row["dataset"] != b.row["dataset"]:
        return None
    correct_a, correct_b = read_correct(a.folder), read_correct(b.folder)
    if correct_a is None or correct_b is None or len(correct_a) != len(correct_b):
        return None
    return None if a.settings.get("images") != b.settings.get("images") else pair_images(correct_a, correct_b)


def pair_images(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> PairedImages:
    """Compare two networks on the same N > 0 images.

    Args:
        a: Which images A classified correctly, (N,) bool.
        b: The same for B, in the same order.
        level: Level of the interval.

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


def _conclude(comparison: Comparison) -> tuple[str, ...]:
    """What the comparison shows, in sentences."""
    names = [difference.name for difference in comparison.settings]
    changed = {change.name for change in comparison.results if change.a != change.b}
    if comparison.same:
        return ("A and B are the same run.",)
    same_id = comparison.a.run_id == comparison.b.run_id
    if not names or (same_id and not any(name.startswith("trainer.") for name in names)):
        settings = "two spellings of the same settings" if names else "the same settings"
        results = "different results" if changed - set(TIMING) else "the same results"
        return (f"A and B are {settings} with the same seed, trained twice, with {results}.",)
    if names == ["seed"]:
        if comparison.code or comparison.environment:
            return ("The seed is the only setting that differs, but code or environment differ too.", STUDY)
        return ("Only the seed differs: this is how much runs with the same settings vary.", STUDY)
    return (SEEDS, STUDY)


SEEDS = "Two single runs also differ by chance: each would come out differently with another seed."
STUDY = "To see if settings make a difference, run a study with several seeds of both: make ablate-<study> SEEDS=5."

"""Does the proxy, a brief training, rank candidates as full training does?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.search.folder import PROPOSALS, accuracy, delete_weights, train, trial_of
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import PROXY
from mnet.studies.trial import Trial

RESAMPLES = 2000


def check_proxy(
    start: Trial,
    candidates: pd.DataFrame,
    count: int,
    folder: Path,
    engine: Engine,
    on_event: OnEvent = lambda event: None,
) -> pd.DataFrame:
    """Train `count` candidates in full, evenly spaced in the proxy's ranking from the worst to the best.

    Returns:
        One row per candidate: `network`, `proxy` and `full`, validation accuracies in percent. Written to `PROXY`.
    """
    trained = candidates.dropna(subset=["accuracy"]).drop_duplicates("run_id")
    rows = list(_evenly_spaced(trained, count))
    jobs = [Job(trial_of(start, Path(str(row["network"]))), folder, PROPOSALS) for row in rows]
    train(engine, jobs, on_event)
    table = pd.DataFrame(
        {
            "network": [row["network"] for row in rows],
            "proxy": [row["accuracy"] for row in rows],
            "full": [accuracy(job) for job in jobs],
        }
    ).dropna()
    delete_weights([job.folder for job in jobs])
    write_csv(folder / PROXY, table)
    return table


def _evenly_spaced(candidates: pd.DataFrame, count: int) -> Iterator[pd.Series]:
    """`count` candidates, evenly spaced in the order of their accuracies."""
    ordered = candidates.sort_values("accuracy", kind="stable")
    for i in np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int)):
        yield ordered.iloc[i]


@dataclass(frozen=True)
class RankCorrelation:
    """The agreement of two rankings."""

    spearman: float
    low: float
    high: float
    """95% interval of `spearman`, by bootstrap over candidates."""
    kendall: float
    n: int

    def __str__(self) -> str:
        return (
            f"Spearman {self.spearman:.2f} [{self.low:.2f}, {self.high:.2f}], Kendall {self.kendall:.2f}, "
            f"{self.n} networks"
        )


def rank_correlation(proxy: Sequence[float], full: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """The correlation of accuracies by proxy and by full training.

    Raises:
        ConfigError: There are fewer than three pairs.
    """
    if len(proxy) < 3:
        raise ConfigError(f"a rank correlation needs three networks, not {len(proxy)}")
    if len(set(proxy)) == 1 or len(set(full)) == 1:
        return RankCorrelation(math.nan, math.nan, math.nan, math.nan, len(proxy))  # no ranking
    pairs = np.stack([np.asarray(proxy, float), np.asarray(full, float)])
    random = np.random.default_rng(seed)
    ranks = stats.rankdata(pairs[:, random.integers(0, len(proxy), (RESAMPLES, len(proxy)))], axis=2)
    ranks -= ranks.mean(axis=2, keepdims=True)
    spread = np.sqrt((ranks**2).sum(axis=2).prod(axis=0))  # zero if a resample has a single value: no ranking
    correlations = (ranks[0] * ranks[1]).sum(axis=1)[spread > 0] / spread[spread > 0]
    low, high = np.quantile(correlations, [0.025, 0.975])
    spearman, kendall = stats.spearmanr(*pairs).statistic, stats.kendalltau(*pairs).statistic
    return RankCorrelation(float(spearman), float(low), float(high), float(kendall), len(proxy))

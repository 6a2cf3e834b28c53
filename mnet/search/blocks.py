"""A search over the blocks of a network: kernels, expansions, SE, activations and channels, stage by stage.

Every candidate is trained for a short while (the proxy), as a run of an engine, and costed; Optuna's NSGA-II looks for
candidates that are accurate and cheap. Judged on validation alone. The reward that picks one of them is MnasNet's,
accuracy x (cost / target) ^ w. Source: Tan et al. 2019, equation 2; V3 §4.1, where V3-Small takes -0.15 for w = -0.07.

A search that was stopped asks the sampler the same questions again, and finds the answers in its folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.models.spec import Block, Network, round_channels
from mnet.models.tables import write_network
from mnet.search.netadapt import NETWORKS, PROPOSALS, accuracy, at, forget, remember, run
from mnet.settings import check_types
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CANDIDATES, PROXY
from mnet.studies.trial import Trial

KNOBS: Mapping[str, tuple[object, ...]] = {
    "kernel": (None, 3, 5),
    "expansion": (0.5, 0.75, 1.0, 1.25),
    "se": (None, False, True),
    "activation": (None, "relu", "hswish"),
    "channels": (0.75, 1.0, 1.25),
}
"""What may differ in a stage: None = as in the seed; expansion and channels are shares of its own."""
OWN: Mapping[str, object] = {"expansion": 1.0, "channels": 1.0}

Choices = Mapping[str, object]
"""`<stage>.<knob>` -> one of `KNOBS`."""
Costs = Callable[[Sequence[Network]], Sequence[float]]
"""Of several networks, as shares of the seed's: at once, so that they can be timed in the same rounds."""


@dataclass(frozen=True, kw_only=True)
class BlockSearch:
    """How to search."""

    population: int = 8
    """Candidates a generation."""
    generations: int = 8
    proxy_steps: int = 300
    """Training steps of a candidate."""
    target: float = 0.7
    """TAR of the reward, as a share of the seed's cost."""
    w: float = -0.07
    """Of the reward; V3-Small was searched with -0.15."""
    proxy_checked: int = 10
    """Candidates, from the worst to the best, that are trained in full too, to see how well the proxy ranks them."""
    seed: int = 0
    """Of the sampler."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("population", 2), ("generations", 1), ("proxy_steps", 1), ("proxy_checked", 3)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if self.target <= 0 or self.w > 0:
            raise ConfigError(f"target must be above 0 and w at most 0, not {self.target} and {self.w}")


def reward(accuracy: float, cost: float, settings: BlockSearch) -> float:
    """MnasNet's, of a candidate that costs such a share of the seed's."""
    return accuracy * (cost / settings.target) ** settings.w


def stages(network: Network) -> list[range]:
    """Rows that belong together: each stage begins with a strided row."""
    begins = sorted({0, *(i for i, row in enumerate(network.blocks) if row.stride > 1)})
    return [range(i, j) for i, j in zip(begins, [*begins[1:], len(network.blocks)], strict=True)]


def space(network: Network) -> dict[str, tuple[object, ...]]:
    """Every choice that the search has, by its name."""
    return {f"{i}.{knob}": values for i in range(len(stages(network))) for knob, values in KNOBS.items()}


def seed_choices(network: Network) -> dict[str, object]:
    """Those that leave the network as it is."""
    return {name: OWN.get(name.partition(".")[2]) for name in space(network)}


def mutated(network: Network, choices: Choices) -> Network:
    """The network with other stages."""
    rows = list(network.blocks)
    for number, stage in enumerate(stages(network)):
        own = {knob: choices[f"{number}.{knob}"] for knob in KNOBS}
        for i in stage:
            rows[i] = mutated_row(rows[i], own)
    return replace(network, blocks=tuple(rows))


def mutated_row(row: Block, own: Mapping[str, object]) -> Block:
    changed: dict[str, Any] = {name: own[name] for name in ("kernel", "se", "activation") if own[name] is not None}
    if row.expansion is not None:
        changed["expansion"] = round_channels(row.expansion * cast(float, own["expansion"]))
    return replace(row, **changed, out_channels=round_channels(row.out_channels * cast(float, own["channels"])))


def search_blocks(
    seed: Trial,
    costs: Costs,
    settings: BlockSearch,
    folder: Path,
    engine: Engine,
    tell: Callable[[int, pd.DataFrame], object] = lambda generation, so_far: None,
    on_event: OnEvent = lambda event: None,
) -> pd.DataFrame:
    """Search, or go on with a search.

    Args:
        seed: The network to begin with, its data and recipe.
        costs: Of networks.
        settings: How much, and how.
        folder: Of the search: `CANDIDATES`, networks and runs.
        engine: Who trains.
        tell: Told after each generation of all candidates so far.
        on_event: Called with every event of a run.

    Returns:
        One row a candidate, as `CANDIDATES`: `generation`, a column a choice, `network` (its file), `run_id`,
        `accuracy` (proxy, validation, percent), `cost` (a share of the seed's), `reward`.

    Raises:
        ConfigError: Optuna is not installed; or the folder has another search.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search over blocks needs optuna: pip install 'mnet[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = seed.input_spec()
    network = seed.network(data.num_classes, data.in_channels)
    remember(folder, seed, str(costs), settings, further=("generations", "target", "w", "proxy_checked"))
    names = space(network)
    distributions = {name: optuna.distributions.CategoricalDistribution(values) for name, values in names.items()}  # type: ignore[arg-type]
    sampler = optuna.samplers.NSGAIISampler(population_size=settings.population, seed=settings.seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.enqueue_trial(seed_choices(network))
    known = Candidates(folder, settings)
    for generation in range(settings.generations):
        asked = [study.ask(distributions) for _ in range(settings.population)]  # type: ignore[arg-type]
        known.extend(generation, [dict(one.params) for one in asked], seed, network, costs, engine, on_event)
        for one, row in zip(asked, known.rows[-len(asked) :], strict=True):
            failed = math.isnan(cast(float, row["accuracy"]))
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.tell(one, None if failed else [row["accuracy"], row["cost"]], state)  # type: ignore[list-item]
        tell(generation, known.table())
    return known.table()


class Candidates:
    """What has been tried, as a file."""

    def __init__(self, folder: Path, settings: BlockSearch) -> None:
        self.folder, self.settings = folder, settings
        self.rows: list[dict[str, object]] = []
        path = folder / CANDIDATES
        before = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["run_id", "cost"])
        self.costs = dict(zip(before["run_id"], before["cost"], strict=True))
        """Run id -> what was measured, in this session or an earlier one: the clock does not say the same twice."""

    def extend(
        self,
        generation: int,
        asked: Sequence[Choices],
        seed: Trial,
        network: Network,
        costs: Costs,
        engine: Engine,
        on_event: OnEvent,
    ) -> None:
        """Train and cost the candidates of a generation, and write them down."""
        found = [mutated(network, choices) for choices in asked]
        jobs = [Job(self.proxy(seed, one), self.folder, PROPOSALS) for one in found]
        run(engine, list({job.run_id: job for job in jobs}.values()), on_event)
        new = {job.run_id: one for job, one in zip(jobs, found, strict=True) if job.run_id not in self.costs}
        self.costs |= dict(zip(new, costs(list(new.values())) if new else (), strict=True))
        for choices, job in zip(asked, jobs, strict=True):
            told = {"network": job.trial.model, "run_id": job.run_id, "accuracy": accuracy(job)}
            self.rows.append({"generation": generation, **choices, **told, "cost": self.costs[job.run_id]})
        forget([job.folder for job in jobs])
        write_csv(self.folder / CANDIDATES, self.table())

    def proxy(self, seed: Trial, network: Network) -> Trial:
        """The trial of a candidate, for a short while."""
        path = self.folder / NETWORKS / f"{fingerprint(network)}.yaml"
        if not path.exists():
            write_network(network, path)
        return replace(at(seed, path), epochs=1, epoch_steps=self.settings.proxy_steps)

    def table(self) -> pd.DataFrame:
        table = pd.DataFrame(self.rows)
        pairs = zip(table["accuracy"].astype(float), table["cost"].astype(float), strict=True)
        return table.assign(reward=[reward(one, cost, self.settings) for one, cost in pairs])


def fingerprint(network: Network) -> str:
    return hashlib.sha256(repr(network).encode()).hexdigest()[:12]


def best(candidates: pd.DataFrame) -> pd.Series:
    """The candidate of the highest reward."""
    return candidates.iloc[int(candidates["reward"].fillna(-math.inf).to_numpy().argmax())]


def front(candidates: pd.DataFrame) -> pd.DataFrame:
    """Those that no other beats in both accuracy and cost, from cheap to dear."""
    ordered = candidates.dropna(subset=["accuracy"]).sort_values(["cost", "accuracy"], ascending=[True, False])
    ahead = ordered["accuracy"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["accuracy"] > ahead]


def check_proxy(
    seed: Trial,
    candidates: pd.DataFrame,
    settings: BlockSearch,
    folder: Path,
    engine: Engine,
    on_event: OnEvent = lambda event: None,
) -> pd.DataFrame:
    """Train some candidates in full, from the one that the proxy ranks last to the first.

    Returns:
        One row each: `network`, `proxy` and `full`, validation accuracies in percent. Written to `PROXY`.
    """
    chosen = list(evenly(candidates.dropna(subset=["accuracy"]).drop_duplicates("run_id"), settings.proxy_checked))
    jobs = [Job(at(seed, Path(str(row["network"]))), folder, PROPOSALS) for row in chosen]
    run(engine, jobs, on_event)
    table = pd.DataFrame(
        {
            "network": [row["network"] for row in chosen],
            "proxy": [row["accuracy"] for row in chosen],
            "full": [accuracy(job) for job in jobs],
        }
    ).dropna()
    forget([job.folder for job in jobs])
    write_csv(folder / PROXY, table)
    return table


def evenly(candidates: pd.DataFrame, count: int) -> Iterator[pd.Series]:
    """So many candidates, at even distances in the order of their accuracies."""
    ordered = candidates.sort_values("accuracy", kind="stable")
    for i in np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int)):
        yield ordered.iloc[i]


@dataclass(frozen=True)
class RankCorrelation:
    """How far two rankings agree."""

    spearman: float
    low: float
    high: float
    """95% interval, by bootstrap over candidates."""
    kendall: float
    n: int

    def __str__(self) -> str:
        return (
            f"Spearman {self.spearman:.2f} [{self.low:.2f}, {self.high:.2f}], Kendall {self.kendall:.2f}, "
            f"{self.n} networks"
        )


def rank_correlation(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """Of the proxy's and the full training's accuracies.

    Raises:
        ConfigError: There are fewer than three pairs.
    """
    if len(one) < 3:
        raise ConfigError(f"a rank correlation needs three networks, not {len(one)}")
    if len(set(one)) == 1 or len(set(other)) == 1:
        return RankCorrelation(math.nan, math.nan, math.nan, math.nan, len(one))  # all alike
    pairs = np.stack([np.asarray(one, float), np.asarray(other, float)])
    random = np.random.default_rng(seed)
    drawn = (pairs[:, random.integers(0, len(one), len(one))] for _ in range(2000))
    again = [stats.spearmanr(*some).statistic for some in drawn if len(set(some[0])) > 1 and len(set(some[1])) > 1]
    low, high = np.quantile(again, [0.025, 0.975])
    spearman, kendall = stats.spearmanr(*pairs).statistic, stats.kendalltau(*pairs).statistic
    return RankCorrelation(float(spearman), float(low), float(high), float(kendall), len(one))

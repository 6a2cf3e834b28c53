"""A search over the blocks of a network (`mnet.search.blocks`), stage by stage.

Every candidate is trained briefly (the proxy), as a run of an engine, and its cost is measured; Optuna's NSGA-II looks
for accurate and cheap candidates. Accuracy is measured on validation images only. One candidate is picked by MnasNet's
reward, accuracy x (cost / target) ^ w. Source: Tan et al. 2019, equation 2; V3 §4.1: w = -0.15 for V3-Small, not -0.07.

A resumed search asks the sampler for the same candidates again and finds their results in its folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.models.spec import Network
from mnet.models.tables import write_network
from mnet.search.blocks import Choices, apply_choices, space, unchanged_choices
from mnet.search.folder import PROPOSALS, accuracy, delete_weights, record_settings, train, trial_of
from mnet.settings import check_types
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.results.archive import usable_table
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import CANDIDATES, NETWORKS
from mnet.studies.trial import Trial

Costs = Callable[[Sequence[Network]], Sequence[float]]
"""Costs of several networks, as shares of the start network's. One call takes all of them, so that they can be timed in
the same rounds."""


@dataclass(frozen=True, kw_only=True)
class BlockSearch:
    """Settings of a search over blocks."""

    population: int = 8
    """Candidates per generation."""
    generations: int = 8
    proxy_steps: int = 300
    """Training steps per candidate."""
    target: float = 0.7
    """Target cost of the reward, as a share of the start network's."""
    w: float = -0.07
    """Exponent of the reward; V3-Small was searched with -0.15."""
    proxy_checked: int = 10
    """Number of candidates, from the worst to the best, that are also trained in full, to check the proxy's ranking."""
    seed: int = 0
    """Seed of the sampler."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("population", 2), ("generations", 1), ("proxy_steps", 1), ("proxy_checked", 3)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if self.target <= 0 or self.w > 0:
            raise ConfigError(f"target must be above 0 and w at most 0, not {self.target} and {self.w}")


def reward(accuracy: float, cost: float, settings: BlockSearch) -> float:
    """MnasNet's reward; `cost` is a share of the start network's."""
    return accuracy * (cost / settings.target) ** settings.w


def search_blocks(
    start: Trial,
    costs: Costs,
    settings: BlockSearch,
    folder: Path,
    engine: Engine,
    on_generation: Callable[[int, pd.DataFrame], object] = lambda generation, candidates: None,
    on_event: OnEvent = lambda event: None,
) -> pd.DataFrame:
    """Start or resume a search.

    Args:
        start: The network to start from, with data and recipe.
        costs: Measures the costs of networks.
        settings: How to search.
        folder: The folder of the search: `CANDIDATES`, networks and runs.
        engine: Trains the candidates.
        on_generation: Called after each generation with all candidates so far.
        on_event: Called with every event of a run.

    Returns:
        One row per candidate, as in `CANDIDATES`: `generation`, a column per choice, `network` (its file), `run_id`,
        `accuracy` (proxy, validation, percent), `cost` (a share of the start network's), `reward`.

    Raises:
        ConfigError: Optuna is not installed, or the folder has a search with other settings.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search over blocks needs optuna: pip install 'mnet[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = start.input_spec()
    network = start.network(data.num_classes, data.in_channels)
    record_settings(folder, start, str(costs), settings, may_change=("generations", "target", "w", "proxy_checked"))
    distributions = {
        name: optuna.distributions.CategoricalDistribution(values)  # type: ignore[arg-type]
        for name, values in space(network).items()
    }
    sampler = optuna.samplers.NSGAIISampler(population_size=settings.population, seed=settings.seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.enqueue_trial(unchanged_choices(network))
    candidates = _Candidates(start, network, costs, settings, folder, engine, on_event)
    for generation in range(settings.generations):
        asked = [study.ask(distributions) for _ in range(settings.population)]  # type: ignore[arg-type]
        candidates.evaluate(generation, [dict(trial.params) for trial in asked])
        for trial, row in zip(asked, candidates.rows[-len(asked) :], strict=True):
            failed = math.isnan(cast(float, row["accuracy"]))
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.tell(trial, None if failed else [row["accuracy"], row["cost"]], state)  # type: ignore[list-item]
        on_generation(generation, candidates.table())
    return candidates.table()


class _Candidates:
    """The candidates of a search so far, kept in a file."""

    def __init__(
        self,
        start: Trial,
        network: Network,
        costs: Costs,
        settings: BlockSearch,
        folder: Path,
        engine: Engine,
        on_event: OnEvent,
    ) -> None:
        self.start, self.network, self.costs, self.settings = start, network, costs, settings
        self.folder, self.engine, self.on_event = folder, engine, on_event
        self.rows: list[dict[str, object]] = []
        found = usable_table(folder / CANDIDATES)
        recorded = pd.DataFrame(columns=["run_id", "cost"]) if found is None else found[1]
        self.cost_of = dict(zip(recorded["run_id"], recorded["cost"], strict=True))
        """Run id -> cost measured in this session or an earlier one; a second measurement would differ."""

    def evaluate(self, generation: int, choices: Sequence[Choices]) -> None:
        """Train the candidates of a generation, measure their costs, and write them to the file."""
        networks = [apply_choices(self.network, each) for each in choices]
        jobs = [Job(self._proxy_trial(network), self.folder, PROPOSALS) for network in networks]
        train(self.engine, list({job.run_id: job for job in jobs}.values()), self.on_event)
        new = {job.run_id: network for job, network in zip(jobs, networks, strict=True)}
        new = {run_id: network for run_id, network in new.items() if run_id not in self.cost_of}
        self.cost_of |= dict(zip(new, self.costs(list(new.values())) if new else (), strict=True))
        for each, job in zip(choices, jobs, strict=True):
            facts = {"network": job.trial.model, "run_id": job.run_id, "accuracy": accuracy(job)}
            self.rows.append({"generation": generation, **each, **facts, "cost": self.cost_of[job.run_id]})
        delete_weights([job.folder for job in jobs])
        write_csv(self.folder / CANDIDATES, self.table())

    def _proxy_trial(self, network: Network) -> Trial:
        """The brief training of a candidate."""
        path = self.folder / NETWORKS / f"{_fingerprint(network)}.yaml"
        if not path.exists():
            write_network(network, path)
        return replace(trial_of(self.start, path), epochs=1, epoch_steps=self.settings.proxy_steps)

    def table(self) -> pd.DataFrame:
        table = pd.DataFrame(self.rows)
        pairs = zip(table["accuracy"].astype(float), table["cost"].astype(float), strict=True)
        return table.assign(reward=[reward(percent, cost, self.settings) for percent, cost in pairs])


def _fingerprint(network: Network) -> str:
    return hashlib.sha256(repr(network).encode()).hexdigest()[:12]


def best(candidates: pd.DataFrame) -> pd.Series:
    """The candidate with the highest reward."""
    return candidates.iloc[int(candidates["reward"].fillna(-math.inf).to_numpy().argmax())]


def pareto_front(candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates that no other beats in both accuracy and cost, from cheap to expensive."""
    ordered = candidates.dropna(subset=["accuracy"]).sort_values(["cost", "accuracy"], ascending=[True, False])
    best_so_far = ordered["accuracy"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["accuracy"] > best_so_far]

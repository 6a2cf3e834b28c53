"""NetAdapt: from a trained network, step by step, to a faster one. Source: Yang et al. 2018; its criterion, V3 §4.2.

In each step every proposal takes channels from one place, just enough that the network is faster by a given share of
the seed's cost; it starts from the last network's weights, of which the strongest channels stay, and is tuned for some
steps of training. The proposal whose accuracy falls least for what it saves is the next network. Judged on validation
alone.

Every proposal is a run of an engine, as those of studies are: on this machine or on others, and paid for once. What
has been decided is in `trace.csv`; a search that was killed goes on from there, to the same network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mnet.errors import ConfigError
from mnet.files import write_csv, write_yaml
from mnet.models.spec import Network
from mnet.models.tables import table, write_network
from mnet.models.toggles import Toggles
from mnet.search.proposals import Cost, Proposal, proposals
from mnet.settings import check_types
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import TRACE, WEIGHTS, read_failure, read_result
from mnet.studies.trial import Trial

SEED, FOUND, NETWORKS, SETTINGS = "seed.yaml", "network.yaml", "networks", "search.yaml"
PROPOSALS = "proposals"
"""Below the folder of a search, the study that its runs are of: other searches do not share them, for most have lost
their weights."""
START = "start"


@dataclass(frozen=True, kw_only=True)
class NetAdapt:
    """How to search."""

    target: float = 0.58
    """Where to stop: a share of the seed's cost. V3-Small at 28 px holds its validation accuracy as far as that."""
    delta: float = 0.01
    """What a step saves at least, as a share of the seed's cost. Source: V3 §4.2."""
    tune_steps: int = 60
    """Of training, for every proposal; V3 has 10,000."""
    tune_lr: float = 0.2
    """Highest learning rate of the tuning, as a share of the recipe's."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, most in (("target", 1), ("delta", 0.5), ("tune_lr", 10)):
            if not 0 < (value := getattr(self, name)) < most:
                raise ConfigError(f"{name} must be above 0 and below {most}, not {value}")
        if self.tune_steps < 1:
            raise ConfigError(f"tune_steps must be at least 1, not {self.tune_steps}")


@dataclass(frozen=True)
class Step:
    """A network on the way, and how it was come by."""

    number: int
    """0 = the seed."""
    what: str
    network: Network
    cost: float
    accuracy: float
    """On validation images, in percent, after its tuning."""
    folder: Path
    """Of the run that has its weights."""


Tell = Callable[[Step, int], object]
"""Told of each step as it is decided, and among how many proposals."""


def adapt(
    seed: Trial,
    cost: Cost,
    settings: NetAdapt,
    folder: Path,
    engine: Engine,
    tell: Tell = lambda step, among: None,
    on_event: OnEvent = lambda event: None,
) -> list[Step]:
    """Search, or go on with a search.

    Args:
        seed: The network to begin with, its data and recipe. Trained first.
        cost: Of a network.
        settings: How far, and how.
        folder: Of the search: `SEED`, `TRACE`, `FOUND` and the runs.
        engine: Who trains.
        tell: Told of every step.
        on_event: Called with every event of a run.

    Returns:
        The steps, from the seed to the network that was found, which lies in `FOUND` too.

    Raises:
        ConfigError: The seed cannot be narrowed that far; or the folder has a search with other settings.
    """
    if seed.head is not None or seed.precision != "fp32":
        raise ConfigError("a search narrows classifiers in fp32; leave head and precision out")
    start = replace(seed, tested=False)
    remember(folder, start, str(cost), settings, further=("target",))
    trace = Trace(folder)
    data = start.input_spec()
    network = start.network(data.num_classes, data.in_channels)
    write_network(network, folder / SEED)
    first = Job(start, folder, PROPOSALS)
    run(engine, [first], on_event)
    steps = [Step(0, START, network, cost(network), accuracy(first), first.folder)]
    if math.isnan(steps[0].accuracy):
        raise ConfigError(f"the seed could not be trained; {read_failure(first.folder)}")
    whole = steps[0].cost
    trace.add(0, [(None, steps[0].accuracy, steps[0].cost, start.run_id)], 0)
    tell(steps[0], 1)
    while (last := steps[-1]).cost > settings.target * whole:
        number = last.number + 1
        among = list(proposals(last.network, cost, settings.delta * whole))
        if not among:
            reached = last.cost / whole
            raise ConfigError(
                f"no proposal saves {settings.delta:.1%} at {reached:.0%} of the seed's cost: what can be narrowed is; "
                f"give {f'a target above {reached:.2f}, or ' if number > 1 else ''}a smaller delta"
            )
        trials = [tuning(seed, last, one, settings, folder) for one in among]
        jobs = [Job(trial, folder, PROPOSALS) for trial in trials]
        found = trace.known(number, [job.run_id for job in jobs])
        if found is None:
            run(engine, jobs, on_event)
            found = [accuracy(job) for job in jobs]
        gains = [
            (one - last.accuracy) / (last.cost - proposal.cost) for one, proposal in zip(found, among, strict=True)
        ]
        best = max(range(len(among)), key=lambda i: (-math.inf if math.isnan(gains[i]) else gains[i], -among[i].cost))
        if math.isnan(found[best]):
            raise ConfigError(f"no proposal of step {number} could be tuned; the last: {read_failure(jobs[-1].folder)}")
        trace.add(number, [(p, a, p.cost, j.run_id) for p, a, j in zip(among, found, jobs, strict=True)], best)
        steps.append(
            Step(number, str(among[best]), among[best].network, among[best].cost, found[best], jobs[best].folder)
        )
        forget([last.folder, *(job.folder for i, job in enumerate(jobs) if i != best)])
        tell(steps[-1], len(among))
    write_network(steps[-1].network, folder / FOUND)
    return steps


def tuning(seed: Trial, last: Step, proposal: Proposal, settings: NetAdapt, folder: Path) -> Trial:
    """The trial that tunes a proposal: the seed's recipe for some steps, from the last network's weights.

    All proposals of a step see the same images; other steps see others.
    """
    path = folder / NETWORKS / f"{last.number + 1:03d}-{proposal.space}.yaml"
    if not path.exists() or table(str(path)) != proposal.network:
        write_network(proposal.network, path)
    recipe = seed.full_recipe()
    return replace(
        at(seed, path),
        pretrained=str(last.folder),
        epochs=1,
        epoch_steps=settings.tune_steps,
        lr=settings.tune_lr * recipe.lr,
        seed=(seed.seed + last.number + 1) % 2**32,
    )


def at(seed: Trial, path: Path) -> Trial:
    """The trial of a network in a file, on the seed's data and by its recipe, judged on validation alone."""
    own: dict[str, Any] = dict.fromkeys(Toggles.__dataclass_fields__)  # the file has all that toggles did to the seed
    return replace(seed, **own, target_madds=None, model=str(path), tested=False)


def remember(folder: Path, seed: Trial, cost: str, settings: object, further: Sequence[str]) -> None:
    """Write down what is searched.

    Args:
        folder: Of the search.
        seed, cost, settings: What it begins with, and how it goes on; a dataclass.
        further: Settings of which another value lets a search go on.

    Raises:
        ConfigError: The folder has a search of another kind.
    """
    own = {"run_id": seed.run_id, "cost": cost, **asdict(settings)}  # type: ignore[call-overload]
    path = folder / SETTINGS
    if path.exists():
        before = yaml.safe_load(path.read_text())
        other = [name for name in own if name not in further and before.get(name) != own[name]]
        if other:
            told = ", ".join(f"{name} {before.get(name)}, not {own[name]}" for name in other)
            raise ConfigError(f"{folder} has a search with {told}; give another name, or remove the folder")
    write_yaml(path, own)


def run(engine: Engine, jobs: Sequence[Job], on_event: OnEvent) -> None:
    """Those that are not finished."""
    engine.run([job for job in jobs if read_result(job.folder) is None], on_event)


def accuracy(job: Job) -> float:
    """On validation images, in percent; nan of a run that failed."""
    result = read_result(job.folder) or {}
    return float(str(result.get(f"val_{job.trial.task.headline.name}", math.nan)))


def forget(folders: Sequence[Path]) -> None:
    """Weights that no later step begins from: a search makes hundreds."""
    for folder in folders:
        (folder / WEIGHTS).unlink(missing_ok=True)


class Trace:
    """What has been decided, as a file: every proposal of every step, and which was taken. It may be of a search that
    went further."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRACE
        try:
            self.rows: list[dict[str, object]] = pd.read_csv(self.path).to_dict("records")  # type: ignore[assignment]
        except (OSError, ValueError):
            self.rows = []

    def known(self, step: int, run_ids: Sequence[str]) -> list[float] | None:
        """Accuracies of the proposals of a step, if it was decided among just these."""
        own = {str(row["run_id"]): float(str(row["accuracy"])) for row in self.rows if row["step"] == step}
        return [own[run_id] for run_id in run_ids] if set(own) == set(run_ids) else None

    def add(self, step: int, among: Sequence[tuple[Proposal | None, float, float, str]], best: int) -> None:
        """Write a step; what an earlier search with other settings had from there on is left out."""
        if self.known(step, [run_id for *_, run_id in among]) is not None:
            return
        self.rows = [row for row in self.rows if int(str(row["step"])) < step]
        for i, (proposal, found, cost, run_id) in enumerate(among):
            told: Mapping[str, object] = (
                {"space": START}
                if proposal is None
                else {"space": proposal.space, "before": proposal.before, "after": proposal.after}
            )
            self.rows.append(
                {"step": step, **told, "cost": cost, "accuracy": found, "taken": i == best, "run_id": run_id}
            )
        write_csv(self.path, pd.DataFrame(self.rows))

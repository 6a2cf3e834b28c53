"""NetAdapt: from a trained network, step by step, to a faster one. Source: Yang et al. 2018; its criterion, V3 §4.2.

In each step, every proposal removes channels in one place, just enough to save a given share of the start network's
cost. It starts from the strongest channels of the last network's weights and is trained for a few steps. The proposal
that loses least accuracy per unit of cost saved is the next network. Accuracy is measured on validation images only.

Every proposal is a run of an engine, like those of studies: on this machine or elsewhere, and never trained twice.
Decisions are kept in `trace.csv`, so a search that was killed resumes there and ends with the same network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mnet.errors import ConfigError
from mnet.files import write_csv
from mnet.models.spec import Network
from mnet.models.tables import table, write_network
from mnet.search.folder import PROPOSALS, accuracy, delete_weights, record_settings, train, trial_of
from mnet.search.proposals import Cost, Proposal, proposals
from mnet.settings import check_types
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.results.archive import usable_table
from mnet.studies.results.table_view import rows_of
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import FOUND_NETWORK, NETWORKS, START_NETWORK, TRACE, read_failure
from mnet.studies.trial import Trial

_START = "start"


@dataclass(frozen=True, kw_only=True)
class NetAdapt:
    """Settings of NetAdapt."""

    target: float = 0.58
    """Cost at which to stop, as a share of the start network's. V3-Small at 28 px keeps its validation accuracy down to
    this."""
    delta: float = 0.01
    """Smallest saving of a step, as a share of the start network's cost. Source: V3 §4.2."""
    tune_steps: int = 60
    """Training steps per proposal; V3 uses 10,000."""
    tune_lr: float = 0.2
    """Highest learning rate of these steps, as a share of the recipe's."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, most in (("target", 1), ("delta", 0.5), ("tune_lr", 10)):
            if not 0 < (value := getattr(self, name)) < most:
                raise ConfigError(f"{name} must be above 0 and below {most}, not {value}")
        if self.tune_steps < 1:
            raise ConfigError(f"tune_steps must be at least 1, not {self.tune_steps}")


@dataclass(frozen=True)
class Step:
    """A network of the search, and the change that led to it."""

    number: int
    """0 = the start network."""
    change: str
    network: Network
    cost: float
    accuracy: float
    """On validation images, in percent, after tuning."""
    folder: Path
    """Folder of the run that has its weights."""


def adapt(
    start: Trial,
    cost: Cost,
    settings: NetAdapt,
    folder: Path,
    engine: Engine,
    on_step: Callable[[Step, int], object] = lambda step, proposals: None,
    on_event: OnEvent = lambda event: None,
) -> list[Step]:
    """Start or resume a search.

    Args:
        start: The network to start from, with data and recipe. It is trained first.
        cost: The cost of a network.
        settings: How to search.
        folder: The folder of the search: `START_NETWORK`, `TRACE`, `FOUND_NETWORK` and the runs.
        engine: Trains the runs.
        on_step: Called with every step once it is decided, and its number of proposals.
        on_event: Called with every event of a run.

    Returns:
        The steps from the start network to the found one, which is also written to `FOUND_NETWORK`.

    Raises:
        ConfigError: The network cannot be narrowed to the target, or the folder has a search with other settings.
    """
    if start.head is not None or start.precision != "fp32":
        raise ConfigError("a search narrows classifiers in fp32; leave head and precision out")
    untested = replace(start, tested=False)
    record_settings(folder, untested, str(cost), settings, may_change=("target",))
    trace = Trace(folder)
    data = untested.input_spec()
    network = untested.network(data.num_classes, data.in_channels)
    write_network(network, folder / START_NETWORK)
    job = Job(untested, folder, PROPOSALS)
    train(engine, [job], on_event)
    steps = [Step(0, _START, network, cost(network), accuracy(job), job.folder)]
    if math.isnan(steps[0].accuracy):
        raise ConfigError(f"the start network could not be trained; {read_failure(job.folder)}")
    start_cost = steps[0].cost
    trace.add(0, [(None, steps[0].accuracy, start_cost, untested.run_id)], 0)
    on_step(steps[0], 1)
    while (last := steps[-1]).cost > settings.target * start_cost:
        number = last.number + 1
        candidates = list(proposals(last.network, cost, settings.delta * start_cost))
        if not candidates:
            reached = last.cost / start_cost
            raise ConfigError(
                f"no proposal saves {settings.delta:.1%} at {reached:.0%} of the start network's cost; "
                f"give {f'a target above {reached:.2f}, or ' if number > 1 else ''}a smaller delta"
            )
        trials = [_tuning_trial(start, last, proposal, settings, folder) for proposal in candidates]
        jobs = [Job(trial, folder, PROPOSALS) for trial in trials]
        accuracies = trace.accuracies(number, [job.run_id for job in jobs])
        if accuracies is None:
            train(engine, jobs, on_event)
            accuracies = [accuracy(job) for job in jobs]
        best = _best(last, candidates, accuracies)
        if math.isnan(accuracies[best]):
            raise ConfigError(f"no proposal of step {number} could be tuned; the last: {read_failure(jobs[-1].folder)}")
        rows = zip(candidates, accuracies, jobs, strict=True)
        trace.add(number, [(proposal, percent, proposal.cost, job.run_id) for proposal, percent, job in rows], best)
        chosen = candidates[best]
        steps.append(Step(number, str(chosen), chosen.network, chosen.cost, accuracies[best], jobs[best].folder))
        delete_weights([last.folder, *(job.folder for i, job in enumerate(jobs) if i != best)])
        on_step(steps[-1], len(candidates))
    write_network(steps[-1].network, folder / FOUND_NETWORK)
    return steps


def _best(last: Step, candidates: Sequence[Proposal], accuracies: Sequence[float]) -> int:
    """The index of the proposal that loses the least accuracy per unit of cost saved; on a tie, the cheapest."""

    def gain(i: int) -> tuple[float, float]:
        change = (accuracies[i] - last.accuracy) / (last.cost - candidates[i].cost)
        return (-math.inf if math.isnan(change) else change, -candidates[i].cost)

    return max(range(len(candidates)), key=gain)


def _tuning_trial(start: Trial, last: Step, proposal: Proposal, settings: NetAdapt, folder: Path) -> Trial:
    """The trial that tunes a proposal: a few steps of the recipe, from the last network's weights.

    All proposals of a step see the same images; other steps see different ones.
    """
    path = folder / NETWORKS / f"{last.number + 1:03d}-{proposal.space}.yaml"
    if not path.exists() or table(str(path)) != proposal.network:
        write_network(proposal.network, path)
    return replace(
        trial_of(start, path),
        pretrained=str(last.folder),
        epochs=1,
        epoch_steps=settings.tune_steps,
        lr=settings.tune_lr * start.full_recipe().lr,
        seed=(start.seed + last.number + 1) % 2**32,
    )


class Trace:
    """The file of all decisions: every proposal of every step, and which was taken. It may have later steps, from a
    search that got further."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRACE
        found = usable_table(self.path)
        self.rows: list[dict[str, object]] = [] if found is None else rows_of(found[1])

    def accuracies(self, step: int, run_ids: Sequence[str]) -> list[float] | None:
        """Accuracies of the proposals of a step; None unless the file has exactly these for it."""
        by_run = {str(row["run_id"]): float(str(row["accuracy"])) for row in self.rows if row["step"] == step}
        return [by_run[run_id] for run_id in run_ids] if set(by_run) == set(run_ids) else None

    def add(self, step: int, candidates: Sequence[tuple[Proposal | None, float, float, str]], best: int) -> None:
        """Write a step: proposal, accuracy, cost and run id of each candidate. Later steps, left by an earlier search
        with other settings, are dropped."""
        if self.accuracies(step, [run_id for *_, run_id in candidates]) is not None:
            return
        self.rows = [row for row in self.rows if int(str(row["step"])) < step]
        for i, (proposal, percent, cost, run_id) in enumerate(candidates):
            change: dict[str, object] = {"space": _START}
            if proposal is not None:
                change = {"space": proposal.space, "before": proposal.before, "after": proposal.after}
            self.rows.append(
                {"step": step, **change, "cost": cost, "accuracy": percent, "taken": i == best, "run_id": run_id}
            )
        write_csv(self.path, pd.DataFrame(self.rows))

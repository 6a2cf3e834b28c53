"""The folder of a search: its files, its settings, and its runs, which an engine trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnet.errors import ConfigError
from mnet.files import load_yaml, write_yaml
from mnet.models.toggles import Toggles
from mnet.studies.engines import Engine
from mnet.studies.engines.events import OnEvent
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import SEARCH_SETTINGS, WEIGHTS, read_result
from mnet.studies.trial import Trial

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PROPOSALS = "proposals"
"""The study of a search's runs, in its folder. Searches share no runs, since most of their weights are deleted."""


def record_settings(
    folder: Path, start: Trial, cost: str, settings: DataclassInstance, may_change: Sequence[str]
) -> None:
    """Write the settings of a search.

    Args:
        folder: The folder of the search.
        start, cost, settings: The trial to start from, the name of the cost, and how to search.
        may_change: Settings that may differ when a search is resumed.

    Raises:
        ConfigError: The folder has a search with different settings.
    """
    current = {"run_id": start.run_id, "cost": cost, **asdict(settings)}
    path = folder / SEARCH_SETTINGS
    if path.exists():
        recorded = load_yaml(path)
        if not isinstance(recorded, dict):
            raise ConfigError(f"{path} does not hold the settings of a search; remove it, or give another name")
        changed = [name for name in current if name not in may_change and recorded.get(name) != current[name]]
        if changed:
            differences = ", ".join(f"{name} {recorded.get(name)}, not {current[name]}" for name in changed)
            raise ConfigError(f"{folder} has a search with {differences}; give another name, or remove the folder")
    write_yaml(path, current)


def trial_of(start: Trial, path: Path) -> Trial:
    """The trial of the network in a file, with the data and recipe of `start`, evaluated on validation only."""
    no_toggles: dict[str, Any] = dict.fromkeys(Toggles.__dataclass_fields__)  # the file includes their effects
    return replace(start, **no_toggles, target_madds=None, model=str(path), tested=False)


def train(engine: Engine, jobs: Sequence[Job], on_event: OnEvent) -> None:
    """Run the jobs that have no result yet."""
    engine.run([job for job in jobs if read_result(job.folder) is None], on_event)


def accuracy(job: Job) -> float:
    """Validation accuracy in percent; nan if the run failed."""
    result = read_result(job.folder) or {}
    return float(str(result.get(f"val_{job.trial.task.headline.name}", math.nan)))


def delete_weights(folders: Sequence[Path]) -> None:
    """Delete weights that no later step starts from: a search writes hundreds."""
    for folder in folders:
        (folder / WEIGHTS).unlink(missing_ok=True)

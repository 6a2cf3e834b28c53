"""Runs that were logged to W&B, read through its API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnet.errors import ConfigError, leave_out
from mnet.settings import coerce, hints
from mnet.studies.results.finished import RESOLVED, FinishedRun, described_trial
from mnet.studies.runs.result import check_value
from mnet.studies.runs.store import check_name
from mnet.studies.runs.tracking import LOGIN, PROVENANCE, TRAINED, first_line, has_account, summary_names
from mnet.studies.runs.wandb_server import check_reachable
from mnet.studies.trial import Trial
from mnet.tasks import TASKS

TIMEOUT_S = 10
"""Timeout of each request to W&B, in seconds."""
INTEGERS = ("params", "madds", "threads", "replicas")
"""Results that are integers, although JSON may hold them as floats."""


@dataclass(frozen=True)
class Address:
    """A project on W&B, or some of its runs."""

    project: str
    """entity/project."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """The `filters` of `wandb.Api.runs`; empty = the whole project."""


def read_address(source: str) -> Address | None:
    """Parse `entity/project`, `entity/project/sweeps/<id>`, `entity/project/runs/<id>` or `entity/project/<run id>`,
    with or without `wandb:` or `https://<host>/` in front; None for anything else."""
    path = re.sub(r"^(wandb:|https?://[^/]+)/*|[?#].*$", "", source)
    path = re.sub(r"(/(workspace|table|overview))?/*$", "", path)
    match = re.fullmatch(r"([\w.-]*\w/[\w.-]*\w)(?:/(?:(sweeps|runs)/)?([\w-]+))?", path)
    if match is None:
        return None
    project, kind, name = match.groups()
    return Address(project, {} if name is None else {"sweep" if kind == "sweeps" else "name": name})


def online_runs(address: Address) -> list[FinishedRun]:
    """The finished runs at an address, oldest first.

    Raises:
        ConfigError: There is no account or no such project, or W&B does not answer.
    """
    path = "/".join([address.project, *address.filters.values()])
    if not has_account():
        raise ConfigError(f"no folder {path}, and W&B cannot be asked for it: no W&B account; {LOGIN}")
    try:
        check_reachable()
        import wandb  # takes seconds, and reading a folder does not need it

        api = wandb.Api(timeout=TIMEOUT_S)
        runs = api.runs(address.project, filters={"state": "finished", **address.filters}, lazy=False)
        logged = [(run.path, dict(run.config), dict(run.summary)) for run in runs]
    except Exception as error:  # wandb's errors have no common base class
        raise ConfigError(f"no folder {path}, and W&B cannot be asked for it: {first_line(error)}") from None
    found = []
    for run_path, config, summary in logged:
        try:
            found.append(read_run("/".join(run_path), config, summary))
        except ConfigError as error:
            leave_out(Path(*run_path), error)
    return [run for run in found if run is not None]


def read_run(path: str, config: Mapping[str, object], summary: Mapping[str, object]) -> FinishedRun | None:
    """A run as `tracking` logged it; None if it was not logged by mnet, or is not finished.

    Args:
        path: Address of the run, for error messages.
        config: Settings by name.
        summary: The last value of each metric.

    Raises:
        ConfigError: It has settings that this version of mnet does not know.
    """
    names = next((names for task in TASKS.values() if (names := summary_names(task)).keys() <= summary.keys()), None)
    if names is None or not {"study", "run_id"} <= config.keys():
        return None
    try:
        trial = described_trial(config)
        metrics = {name: read_number(name, summary[logged]) for logged, name in names.items()}
        for name, value in metrics.items():
            check_value(name, value)
        for name in ("study", "run_id"):
            check_name(name, config[name])
        trained = resolved_settings(trial, config)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"W&B run {path}: {error}") from None
    provenance = {
        name: read_number(name, summary[name]) if isinstance(summary[name], int | float) else summary[name]
        for name in PROVENANCE
        if name in summary
    }
    return FinishedRun(str(config["study"]), trial, {"run_id": config["run_id"], **trained, **metrics, **provenance})


def read_number(name: str, value: object) -> int | float:
    """A result as int or float: JSON has 50 for 50.0, and W&B may return 1e6 for 1000000."""
    return int(float(str(value))) if name in INTEGERS else float(str(value))


def resolved_settings(trial: Trial, config: Mapping[str, object]) -> dict[str, object]:
    """`RESOLVED` and the resolution as logged; if not logged, the defaults of recipe and data set."""
    trained = config.get(TRAINED)
    logged = {**config, **(trained if isinstance(trained, Mapping) else {})}
    recipe = trial.full_recipe()
    defaults = {**{name: getattr(recipe, name) for name in RESOLVED}, "resolution": trial.input_spec().resolution}
    values = {name: coerce(name, logged.get(name), hints(Trial)[name]) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in values.items()}

"""Weights & Biases: how a run is named there, and what its page shows.

Every setting is in `config` under its name, so runs can be grouped by any toggle; metrics have the names that the sweep
files use. A run of a sweep is marked as preemptible: if its process dies, W&B assigns it again.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnet.errors import ConfigError, text
from mnet.studies.options import VARIANT
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import NotFinite
from mnet.studies.runs.store import METRICS
from mnet.studies.runs.wandb_server import Unreachable, check_reachable, deadline
from mnet.studies.trial import Trial
from mnet.tasks import Task

if TYPE_CHECKING:
    import wandb

PROJECT = "mnet"
STEP = "trainer/global_step"
"""The x-axis of every chart; Lightning's name."""

PROVENANCE = ("dead_kernels", "device", "threads", "torch", "mnet", "revision", "replicas", "compile")
"""Entries of result.json that are logged if present: values that not every run has, and what it was trained on. They
are in the summary because the run may have been trained elsewhere."""

TRAINED = "trained"
"""Key in `config` for epochs, batch size and learning rate as trained; under their names a sweep may set others."""

INIT_SECONDS = 8.0
"""How long W&B may take to register a run before it is logged offline, unless WANDB_INIT_TIMEOUT is set."""

LOGIN = "log in with `.venv/bin/wandb login`, or set WANDB_API_KEY"

When = Literal["auto", "on", "off"]


def summary_names(task: Task) -> dict[str, str]:
    """Name on W&B -> name in result.json, for runs of a task."""
    headline = task.headline.name
    return {
        **{f"test/{metric.name}": metric.name for metric in task.metrics},
        "test/loss": "test_loss",
        f"val/{headline}": f"val_{headline}",
        "val/loss": "val_loss",
        **{name: name for name in ("params", "madds", "train_seconds", "images_per_second")},
    }


def project() -> str:
    """The project on W&B: WANDB_PROJECT, or `mnet`."""
    return os.environ.get("WANDB_PROJECT", PROJECT)


def in_sweep() -> bool:
    """Whether a W&B agent started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def is_wanted(when: When) -> bool:
    """Whether to log a run to W&B: on request or, if `auto`, when an agent started it; never if W&B is disabled."""
    return (when == "on" or (when == "auto" and in_sweep())) and os.environ.get("WANDB_MODE") != "disabled"


def require_account(alternative: str) -> None:
    """
    Args:
        alternative: A command that works without an account.

    Raises:
        ConfigError: There are no credentials for W&B, or it is switched off; the message names the alternative.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise ConfigError(f"a sweep needs W&B online, but WANDB_MODE is {mode!r}; {alternative} works without W&B")
    if not has_account():
        raise ConfigError(f"no W&B account; {alternative} works without one. For W&B {LOGIN}")


def has_account() -> bool:
    """Whether there are credentials for W&B. They are neither read nor verified.

    Raises:
        ConfigError: They are malformed.
    """
    import wandb  # takes seconds, and most runs are not logged

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ConfigError(f"W&B: {error}") from None


@contextmanager
def tracked(job: Job, variant: str | None, notify: Callable[[str], object]) -> Iterator[wandb.Run]:
    """A run on W&B for the duration of a block, offline if W&B cannot be reached.

    In a sweep, a run whose loss diverges ends as finished, with the reason in its summary, since a second attempt would
    diverge too. After any other error the sweep assigns the run again.

    Args:
        job: The job of the run.
        variant: The option of that name, if it was given.
        notify: Called with a line that says why the run is offline.
    """
    run = _start(job, notify)
    run.config.setdefaults(config_of(job, variant))  # values set by the sweep are kept
    if in_sweep():
        run.mark_preempting()
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    try:
        yield run
    except NotFinite as error:
        run.summary["failed"] = str(error)
        run.finish(exit_code=0 if in_sweep() else 1)
        raise
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


def _start(job: Job, notify: Callable[[str], object]) -> wandb.Run:
    """A new run, or in a sweep the run that the agent was assigned, resumed if it was started before."""
    import wandb

    job.folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("WANDB_MODE", "online") != "online":
        return _init(job, wandb.Settings())
    if has_account():
        try:
            check_reachable()
            return _init(job, wandb.Settings(init_timeout=deadline(INIT_SECONDS)))
        except (wandb.Error, Unreachable) as error:
            reason = f"W&B cannot be reached ({first_line(error)})"
    else:
        reason = "no W&B account"
    notify(f"{reason}: logging offline; `.venv/bin/wandb sync {job.folder}/wandb/offline-*` uploads it")
    return _init(job, wandb.Settings(mode="offline", silent=True))


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).partition("\n")[0]


def _init(job: Job, settings: wandb.Settings) -> wandb.Run:
    import wandb

    trial = job.trial
    return wandb.init(
        dir=job.folder,
        project=None if in_sweep() else project(),  # a sweep belongs to a project
        name=run_title(trial),
        group=f"{job.study}/{trial.model}",
        job_type="trial",
        tags=[job.study, trial.model, trial.dataset],
        resume="allow" if in_sweep() else None,
        settings=settings,
    )


def run_title(trial: Trial) -> str:
    """The toggles that differ from the paper, and the seed: `activation=relu width=0.5 seed=1`."""
    toggles = [f"{name}={text(value)}" for name, value in trial.toggles().items() if value is not None]
    return " ".join([*(toggles or [text(None)]), f"seed={trial.seed}"])


def config_of(job: Job, variant: str | None) -> dict[str, object]:
    """Every setting by its name. A toggle left as in the paper is `paper`, so that it forms a group on W&B; settings
    left to the recipe or the data set are resolved."""
    trial, recipe = job.trial, job.trial.full_recipe()
    settings = {name: text(value) if value is None else value for name, value in trial.settings().items()}
    trained = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "lr": recipe.lr}
    identity = {"study": job.study, "run_id": job.run_id, "resolution": trial.input_spec().resolution}
    return {**settings, **trained, TRAINED: trained, **identity, **({} if variant is None else {VARIANT: variant})}


def log_result(run: wandb.Run, task: Task, result: Mapping[str, object]) -> None:
    """Put the result of a finished run into its summary."""
    names = {**summary_names(task), **{name: name for name in PROVENANCE}}
    run.summary.update({logged: result[name] for logged, name in names.items() if name in result})


def log_history(run: wandb.Run, folder: Path) -> None:
    """Log the metrics of a run that was trained earlier, so that its charts are not empty."""
    if run.resumed or not (folder / METRICS).exists():
        return
    with (folder / METRICS).open(newline="") as stream:
        for row in csv.DictReader(stream):
            values = {name: float(value) for name, value in row.items() if value and name != "step"}
            run.log({**values, STEP: int(row["step"])})

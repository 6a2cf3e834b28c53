"""Weights & Biases: how a run is named there, and what its page shows.

Every setting is in `config` under its own name, so that runs can be grouped by any toggle; the names of the metrics are
those of the sweep files. A run of a sweep is marked as preemptible: one whose process dies is handed out again.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import wandb

from mnet.errors import ConfigError, text
from mnet.studies.options import VARIANT
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import METRICS
from mnet.studies.trial import Trial
from mnet.tasks import Task

PROJECT = "mnet"
STEP = "trainer/global_step"
"""The x-axis of every chart; Lightning's name."""

PROVENANCE = ("dead_kernels", "device", "threads", "torch", "mnet", "revision", "replicas", "compile")
"""Of result.json, where it has them: what not every run counts, and where and by what it was made. In the summary,
since the run may have been trained elsewhere."""

TRAINED = "trained"
"""In `config`: epochs, batch size and learning rate as trained, beside those of the same names that a sweep set."""

LOGIN = "log in with `.venv/bin/wandb login`, or set WANDB_API_KEY"

When = Literal["auto", "on", "off"]


def summary_names(task: Task) -> dict[str, str]:
    """Name on W&B -> name in result.json, of a run of a task."""
    headline = task.headline.name
    return {
        **{f"test/{metric.name}": metric.name for metric in task.metrics},
        "test/loss": "test_loss",
        f"val/{headline}": f"val_{headline}",
        "val/loss": "val_loss",
        **{name: name for name in ("params", "madds", "train_seconds", "images_per_second")},
    }


def project() -> str:
    """The project on W&B: the user's own choice, or `mnet`."""
    return os.environ.get("WANDB_PROJECT", PROJECT)


def in_sweep() -> bool:
    """Whether a W&B agent started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def is_wanted(when: When) -> bool:
    """Whether a run is logged to W&B: asked for or, if `auto`, started by an agent; and not disabled by the user."""
    return (when == "on" or (when == "auto" and in_sweep())) and os.environ.get("WANDB_MODE") != "disabled"


def require_account(instead: str) -> None:
    """
    Args:
        instead: What works without an account.

    Raises:
        ConfigError: There are no credentials for W&B, or it is switched off. The message says what works without.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise ConfigError(f"a sweep needs W&B online, and WANDB_MODE is {mode!r}; {instead} works without")
    if not has_account():
        raise ConfigError(f"no W&B account; {instead} works without one. For W&B {LOGIN}")


def has_account() -> bool:
    """Whether there are credentials for W&B, of which nothing but their presence is looked at.

    Raises:
        ConfigError: They are malformed.
    """
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ConfigError(f"W&B: {error}") from None


@contextmanager
def tracked(job: Job, variant: str | None, say: Callable[[str], object]) -> Iterator[wandb.Run]:
    """A run on W&B for the duration of a block, offline where W&B cannot be had.

    What is not worth trying again (a loss that is no number) ends as finished under a sweep, with its reason in the
    summary; whatever else is raised makes the sweep hand out the run again.

    Args:
        job: What is run.
        variant: The option of that name, if one was given.
        say: Told in a line why the run is offline.
    """
    from mnet.studies.runs.progress import NotFinite

    run = start(job, say)
    run.config.setdefaults(config_of(job, variant))  # what the sweep has set, it keeps
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


def start(job: Job, say: Callable[[str], object]) -> wandb.Run:
    """A new run, or under a sweep the one that the agent was given, gone on with if it has begun before."""
    job.folder.mkdir(parents=True, exist_ok=True)
    offline = f"logging offline; `.venv/bin/wandb sync {job.folder}/wandb/offline-*` uploads it"
    if os.environ.get("WANDB_MODE", "online") == "online":
        if has_account():
            try:
                return init(job, wandb.Settings())
            except wandb.Error as error:
                say(f"W&B cannot be had ({first_line(error)}): {offline}")
        else:
            say(f"no W&B account: {offline}")
        return init(job, wandb.Settings(mode="offline", silent=True))
    return init(job, wandb.Settings())


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def init(job: Job, settings: wandb.Settings) -> wandb.Run:
    trial = job.trial
    return wandb.init(
        dir=job.folder,
        project=None if in_sweep() else project(),  # a sweep has its own
        name=run_title(trial),
        group=f"{job.study}/{trial.model}",
        job_type="trial",
        tags=[job.study, trial.model, trial.dataset],
        resume="allow" if in_sweep() else None,
        settings=settings,
    )


def run_title(trial: Trial) -> str:
    """What is not as in the paper, and the seed: `activation=relu width=0.5 seed=1`."""
    toggles = [f"{name}={text(value)}" for name, value in trial.toggles().items() if value is not None]
    return " ".join([*(toggles or [text(None)]), f"seed={trial.seed}"])


def config_of(job: Job, variant: str | None) -> dict[str, object]:
    """Every setting by its name; a toggle that is as in the paper reads `paper`, so that it is a group of its own,
    and what the recipe or the data set decides is written out."""
    trial, recipe = job.trial, job.trial.full_recipe()
    settings = {name: text(value) if value is None else value for name, value in trial.settings().items()}
    trained = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "lr": recipe.lr}
    identity = {"study": job.study, "run_id": job.run_id, "resolution": trial.input_spec().resolution}
    return {**settings, **trained, TRAINED: trained, **identity, **({} if variant is None else {VARIANT: variant})}


def log_result(run: wandb.Run, task: Task, result: Mapping[str, object]) -> None:
    """Show a finished run's numbers in its summary, and where they were made."""
    shown = {**summary_names(task), **{name: name for name in PROVENANCE}}
    run.summary.update({there: result[name] for there, name in shown.items() if name in result})


def log_history(run: wandb.Run, folder: Path) -> None:
    """Show the metrics of a run that was trained before, so that its charts are not empty."""
    if run.resumed or not (folder / METRICS).exists():
        return
    with (folder / METRICS).open(newline="") as stream:
        for row in csv.DictReader(stream):
            values = {name: float(value) for name, value in row.items() if value and name != "step"}
            run.log({**values, STEP: int(row["step"])})

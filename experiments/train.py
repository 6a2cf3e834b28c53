"""Train and test one network; W&B's agents run this program too.

    python experiments/train.py --model=mobilenet_v2 --activation=hswish --seed=1
    python experiments/train.py --config=results/activation/runs/<run_id>/config.yaml --out=again   # repeat a run

The same settings give the same numbers as in a study. A run that any study under --out has finished is copied
instead of trained.
"""

from __future__ import annotations

from common.startup import hold_collection

if __name__ == "__main__":
    hold_collection()

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

if __name__ == "__main__" and ("WANDB_SWEEP_ID" in os.environ or "--wandb=on" in sys.argv):
    import wandb  # noqa: F401 - before torch: it scans all loaded modules, which takes seconds after Lightning

import torch
from common.options import Arguments, Parser, check_positive
from common.program import program
from lightning.pytorch.loggers import Logger, WandbLogger

from mnet.data import ImageData
from mnet.data.summary import describe as describe_images
from mnet.studies.engines.attempt import run_when_free
from mnet.studies.options import VARIANT, read_option, trial_from
from mnet.studies.runs.images import describe_changes, load_data
from mnet.studies.runs.job import Job
from mnet.studies.runs.progress import NotFinite
from mnet.studies.runs.run import run_job
from mnet.studies.runs.store import Result, check_name, find_finished, results_root
from mnet.studies.runs.tracking import When, is_wanted, log_history, log_result, tracked
from mnet.studies.runs.trainer import is_rank_zero
from mnet.studies.trial import Trial
from mnet.training.arithmetic import Compile, check_compile


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options other than the settings of the trial."""

    study: str = "train"
    """Name of the study that the run belongs to."""
    out: str = "results"
    """Folder for results; the run's folder is OUT/STUDY/runs/<run_id>."""
    wandb: When = "auto"
    """Log to W&B: auto, on or off; auto = only if a W&B agent started this program."""
    compile: Compile = "auto"
    """How training steps are computed: off; graphs = recorded as CUDA graphs; a mode of torch.compile; auto = graphs on
    a GPU, elsewhere off."""
    threads: int = 1
    """CPU threads; with 1, a run gives the same numbers as in a study."""

    def __post_init__(self) -> None:
        check_positive(self, "threads")
        check_name("study", self.study)


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__, trial=True, trainer=True).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 trained or already finished, 1 the training failed, 2 bad input."""
    given = read_arguments(arguments)
    options, trial, trainer = given.options, trial_from(given.settings), given.trainer
    variant = str(read_option(VARIANT, given.settings[VARIANT])) if VARIANT in given.settings else None
    job = Job(trial, results_root(options.out, trainer), options.study, compile=options.compile)
    check_compile(job.compile)
    torch.set_num_threads(options.threads)
    finished_before = find_finished(job.root, job.run_id) is not None
    data = None if finished_before else read_own_images(job)
    try:
        if is_wanted(options.wandb) and is_rank_zero():
            with tracked(job, variant, print) as run:
                result = train(job, trainer, data, (WandbLogger(experiment=run),))
                if finished_before:
                    log_history(run, job.folder)
                log_result(run, trial.task, result)
        else:
            result = train(job, trainer, data)
    except NotFinite as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if is_rank_zero():
        print(f"{'already finished' if finished_before else 'finished'}: {describe(trial, result)}, {job.folder}")
        if "start" in result:
            print(f"  {result['start']}")
    return 0


def read_own_images(job: Job) -> ImageData | None:
    """Read a user's own images and print a few lines about them; None for a published data set."""
    if not job.trial.dataset_class().is_users:
        return None
    data = load_data(job.trial, job.trial.full_recipe())
    if is_rank_zero():
        for line in (*describe_images(data), *describe_changes(job.root, job.study, data.data_dir, data.description())):
            print(line)
    return data


def train(
    job: Job, trainer: Mapping[str, object], data: ImageData | None = None, loggers: Sequence[Logger] = ()
) -> Result:
    """The job's result: copied, or trained here, after waiting for another process that trains it."""
    return run_when_free(
        lambda: run_job(job, trainer=trainer, loggers=loggers, data=data),
        on_locked=lambda reason: print(f"{reason}; waiting for it"),
    )


def describe(trial: Trial, result: Result) -> str:
    """The headline metric of a run, such as `test top-1 90.12%`."""
    metric = trial.task.headline
    split, name = ("test", metric.name) if trial.tested else ("validation", f"val_{metric.name}")
    return f"{split} {metric.label} {dict(result)[name]:.2f}%"


if __name__ == "__main__":
    sys.exit(main())

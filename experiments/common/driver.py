"""Runs studies from the command line: plans the runs, chooses an engine, trains, writes tables and pages."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

import mnet
from common.options import check_positive
from common.progress import Display
from common.rates import measured_rates
from common.summary import print_summary
from mnet.data import ImageData
from mnet.data.summary import describe
from mnet.errors import ConfigError
from mnet.studies.engines import Engine, make_engine
from mnet.studies.engines.estimate import Rates, trial_seconds
from mnet.studies.engines.events import Event, Failed, Finished
from mnet.studies.engines.local import default_workers
from mnet.studies.engines.packing import plan_packs
from mnet.studies.engines.remote import is_url
from mnet.studies.engines.worker import SharedData
from mnet.studies.results.tables import MARGIN, margin_of, write_tables
from mnet.studies.runs.images import describe_changes, load_data
from mnet.studies.runs.job import CHECKPOINT_SECONDS, Job
from mnet.studies.runs.start import load_pretrained
from mnet.studies.runs.store import FAILURE, SUMMARY, adopt, find_finished, read_failure, read_result, run_folder
from mnet.studies.study import Study
from mnet.training.arithmetic import Compile, check_compile, check_precision


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How studies are run, whatever the settings of their trials."""

    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str = "results"
    """Folder for results; for ray and slurm, one that all machines share. For ray also an fsspec URL, through which
    machines without a shared folder exchange runs; the tables are then in results."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where the trials run: local, ray or slurm."""
    workers: int | None = None
    """Trials that run in parallel; default: one per core, or one if a trial uses several devices."""
    pack: str = "auto"
    """Seeds of a cell that are trained as one network: a number, 1 = none, auto = the number that finishes all runs
    fastest. For the local engine with one device per trial; results differ at most by rounding."""
    compile: Compile = "auto"
    """How training steps are computed: off; graphs = recorded as CUDA graphs; a mode of torch.compile; auto = graphs on
    a GPU, elsewhere off. Results differ at most by rounding."""
    margin: float = MARGIN
    """Differences below this many points are of no interest."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints, the most training that a kill can cost."""
    ray_address: str | None = None
    """Address of a Ray cluster, host:port or ray://host:port; default: RAY_ADDRESS, or this machine."""
    gpus: float | None = None
    """GPUs per trial, for ray and slurm; a fraction lets several trials share one."""
    partition: str | None = None
    """Slurm partition."""
    report: bool = True
    """Also write each study's page, OUT/STUDY/report.html."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "workers", "margin", "gpus")

    @property
    def folder(self) -> Path:
        """Where tables go."""
        return Path("results" if is_url(self.out) else self.out)


def plan_jobs(studies: Sequence[Study], root: Path, options: RunOptions, trainer: Mapping[str, object]) -> list[Job]:
    """The runs of all studies, each once; a run that several share belongs to the first of them.

    Raises:
        ConfigError: This machine cannot run them.
    """
    jobs: dict[str, Job] = {}
    for study in studies:
        for _, trial in study.trials:
            jobs.setdefault(trial.run_id, Job(trial, root, study.name))
    return pack_jobs(list(jobs.values()), options, trainer)


def pack_jobs(jobs: Sequence[Job], options: RunOptions, trainer: Mapping[str, object]) -> list[Job]:
    """The jobs with the options for their computation: `compile`, and how many seeds train as one network.

    Args:
        jobs: All jobs, finished ones too, so that a resumed call has the same packs.
        options: Options of the call.
        trainer: Arguments of Lightning's Trainer.

    Raises:
        ConfigError: This machine cannot run them.
    """
    jobs = [replace(job, compile=options.compile) for job in jobs]
    if options.engine == "local":  # the other engines' machines may have what this one lacks
        check_compile(options.compile)
        for job in jobs:
            check_precision(job.trial.precision)
    if options.engine != "local" or count_devices(trainer) > 1:
        return jobs
    workers = options.workers or default_workers()
    return plan_packs(jobs, workers, _pack_size(options.pack), gpu=torch.cuda.is_available())


def count_devices(trainer: Mapping[str, object]) -> int:
    """How many devices of this machine train one trial.

    Raises:
        ConfigError: Lightning refuses these arguments of its Trainer.
    """
    if "devices" not in trainer:
        return 1
    from mnet.studies.engines.devices import device_count  # imports Lightning, which this process can do without

    return device_count(trainer)


def _pack_size(pack: str) -> int | None:
    if pack == "auto":
        return None
    if not pack.isdecimal() or int(pack) < 1:
        raise ConfigError(
            f"pack must be auto or a number of seeds, at least 1, not {pack}; 1 trains every run separately"
        )
    return int(pack)


def read_data(jobs: Sequence[Job]) -> SharedData:
    """Fetch, verify and read every data set before any training; keyed by `Trial.data_key`."""
    data: dict[tuple[object, ...], ImageData] = {}
    for trial in (job.trial for job in jobs):
        if trial.data_key not in data:
            data[trial.data_key] = load_data(trial, trial.full_recipe())
    return data


def describe_images(data: SharedData, studies: Sequence[Study], root: Path) -> Iterator[str]:
    """Lines about a user's own images, and about what has changed since earlier runs of the studies."""
    for images in data.values():
        yield from describe(images)
        if images.is_users:
            for study in studies:
                yield from describe_changes(root, study.name, images.data_dir, images.description())


def choose_engine(options: RunOptions, trainer: Mapping[str, object], data: SharedData) -> Engine:
    """The engine that the options ask for.

    Raises:
        ConfigError: It is not installed, or cannot give a trial as many devices.
    """
    common: dict[str, object] = {"trainer": trainer, "checkpoint_s": options.checkpoint_seconds}
    if count_devices(trainer) > 1:
        if options.engine != "local":
            raise ConfigError(
                f"the {options.engine} engine gives each trial one device; more than one needs --engine=local"
            )
        from mnet.studies.engines.devices import run_job

        return make_engine("local", workers=options.workers or 1, run_job=run_job, **common)
    if options.engine == "local":
        return make_engine("local", workers=options.workers, data=data, **common)
    common["gpus"] = options.gpus or 0.0
    if options.engine == "ray":
        storage = options.out if is_url(options.out) else None
        return make_engine("ray", address=options.ray_address, storage=storage, **common)
    return make_engine("slurm", partition=options.partition, **common)


def describe_pretrained(study: Study, data: SharedData = MappingProxyType({})) -> Iterator[str]:
    """One line per cell that starts from pretrained weights: which of them it keeps.

    Raises:
        ConfigError: The weights cannot be read, or belong to another network.
    """
    for cell in study.cells:
        trial = cell.trials[0]
        if trial.pretrained is not None:
            images = data.get(trial.data_key, trial.input_spec())
            net = mnet.create_model(trial.network(images.num_classes, images.in_channels))
            yield f"{cell.name}: {load_pretrained(trial.pretrained, net, trial.model)}"


def run_studies(studies: Sequence[Study], root: Path, engine: Engine, jobs: Sequence[Job], options: RunOptions) -> int:
    """Run the unfinished jobs; write the tables of a study as its results arrive, and its page at the end.

    Returns:
        The exit code: 0 all runs finished, 1 some failed.
    """
    gc.freeze()  # statsmodels collects garbage at every table; what was imported is not garbage
    share_finished(studies, root)
    todo = find_unfinished(jobs)
    users = {job.run_id: [study for study in studies if job.run_id in _run_ids(study)] for job in jobs}
    failed: list[Failed] = []
    with Display(studies, jobs, todo) as display:

        def on_event(event: Event) -> None:
            display.on_event(event)
            if isinstance(event, Failed):
                failed.append(event)
            if isinstance(event, Finished):
                share_finished(users[event.job.run_id], root)
            if isinstance(event, Finished | Failed):
                for study in users[event.job.run_id]:
                    write_tables(study, root, margin=options.margin)

        engine.run(todo, on_event)
    return finish_studies(studies, root, options, failed)


def finish_studies(studies: Sequence[Study], root: Path, options: RunOptions, failed: Sequence[Failed]) -> int:
    """Write the tables, figures and pages of studies, and print their tables.

    Returns:
        The exit code: 0, or 1 if runs failed.
    """
    from mnet.studies.report.figures import write_figures  # charts take seconds to import

    rates, workers = measured_rates(root), options.workers or default_workers()
    for study in studies:
        tables = write_tables(study, root, margin=options.margin)
        write_figures(study, tables, root)
        margin = margin_of(study, root, options.margin)
        print_summary(study, tables, root / study.name, margin, seconds_of_a_seed(study, rates, workers))
    for event in failed:
        print(f"failed: {event.job.run_id}: {event.reason} ({event.job.folder / FAILURE})", file=sys.stderr)
    if options.report:
        from common.pages import write_pages

        for path in write_pages(root, [study.name for study in studies if (root / study.name / SUMMARY).exists()]):
            print(f"  {path}")
    return 1 if failed else 0


def seconds_of_a_seed(study: Study, rates: Rates, workers: int) -> dict[str, float]:
    """Cell -> seconds that one more seed of it and of the baseline takes on this machine."""
    baseline = trial_seconds(study.cells[0].trials[0], rates)
    return {cell.name: (baseline + trial_seconds(cell.trials[0], rates)) / workers for cell in study.cells}


def find_unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The runs without a result in the folder of their study."""
    return [job for job in jobs if read_result(job.folder) is None]


def has_ended(job: Job) -> bool:
    """Whether a run is finished, or diverged and would again."""
    return find_finished(job.root, job.run_id) is not None or (read_failure(job.folder) or "").startswith("NotFinite")


def share_finished(studies: Sequence[Study], root: Path) -> None:
    """Copy the runs that another study has finished."""
    for study in studies:
        for _, trial in study.trials:
            folder = run_folder(root, study.name, trial.run_id)
            if read_result(folder) is None and (source := find_finished(root, trial.run_id)) is not None:
                adopt(source, folder)


def _run_ids(study: Study) -> set[str]:
    return {trial.run_id for _, trial in study.trials}

"""Run studies: `python experiments/ablate.py activation --model=mobilenet_v2 --seeds=5`, several at once, or `all`.

Finished runs are not paid for again, in whichever study; stop with Ctrl-C and run the same command to go on.
"""

from __future__ import annotations

from multiprocessing import forkserver, set_forkserver_preload

if __name__ == "__main__":  # the workers' server imports torch and Lightning while this process does the same
    set_forkserver_preload(["mnet.studies.runs.run"])
    forkserver.ensure_running()

import argparse
import gc
import inspect
import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from common.options import SWEEPS, add_trial_settings, overrides, read_options, refuse, sweep_file, trial_settings
from common.terminal import Display, print_summary

import mnet
from mnet.data import ImageData
from mnet.errors import ConfigError, DataError, unknown
from mnet.settings import check_names, hints
from mnet.studies.engines import ENGINES, Engine, Event, devices, make_engine
from mnet.studies.engines.local import default_workers
from mnet.studies.engines.packing import plan_packs
from mnet.studies.engines.remote import is_url
from mnet.studies.options import OPTIONS
from mnet.studies.results.tables import MARGIN, write_tables
from mnet.studies.runs.job import Job
from mnet.studies.runs.prepare import load_data
from mnet.studies.runs.start import load_pretrained
from mnet.studies.runs.store import FAILURE, SUMMARY, adopt, find_finished, read_result, results_root, run_folder
from mnet.studies.study import Study, list_studies, load_study
from mnet.training.arithmetic import Compile, check_compile, check_precision

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for, beside the settings of its trials."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str = "results"
    """Folder for results; for ray and slurm one that all machines see. For ray also an fsspec URL, through which
    machines without a common folder exchange runs; the tables are then in results."""
    engine: str = "local"
    """Who runs the trials: local, ray or slurm."""
    workers: int | None = None
    """Trials side by side; default: one a core, or one where a trial is trained on several devices."""
    pack: str = "auto"
    """Seeds of a cell that are trained as one network: a number, 1 = none, auto = as many as make the whole fastest. Of
    the local engine and one device a trial; results do not depend on it beyond rounding."""
    compile: Compile = "off"
    """How training steps are compiled: off, or a mode of torch.compile; on a GPU reduce-overhead replays CUDA graphs.
    Results do not depend on it beyond rounding."""
    margin: float = MARGIN
    """Points below which a difference is of no interest."""
    checkpoint_seconds: float = 30.0
    """Training that a kill may cost."""
    ray_address: str | None = None
    """Of an existing Ray cluster, host:port or ray://host:port; default: what RAY_ADDRESS says, or this machine's."""
    gpus: float | None = None
    """GPUs a trial, for ray and slurm; a fraction lets several share one."""
    partition: str | None = None
    """Of Slurm."""
    report: bool = True
    """Write the page of each study too: <out>/<study>/report.html."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all runs finished, 1 some failed, 2 bad input, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(stop, signal.default_int_handler)
    try:
        names, options, settings, trainer = read_arguments(sys.argv[1:] if arguments is None else arguments)
        studies = [load(name, options, settings) for name in names]
        root = results_root("results" if is_url(options.out) else options.out, trainer)
        jobs = plan(studies, root, options, trainer)
        starts = [told for study in studies for told in tell_starts(study)]
        data = read_data([job for job in jobs if find_finished(root, job.run_id) is None])
        engine = build_engine(options, trainer, data)
        for study in studies:
            for reason in study.refused:
                print(f"left out of {study.name}, {reason}")
        for start in starts:
            print(start)
        code = run(studies, root, engine, jobs, options.margin)
        if options.report and code != INTERRUPTED:
            from report import write  # drawing takes seconds to import

            for path in write(root, [study.name for study in studies if (root / study.name / SUMMARY).exists()]):
                print(f"  {path}")
        return code
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; what is finished is kept", file=sys.stderr)
        return 1


def build_engine(options: Options, trainer: Mapping[str, object], data: Sequence[ImageData]) -> Engine:
    """The engine that was asked for.

    Raises:
        ConfigError: Unknown, not installed, or without the devices that the Trainer is to use.
    """
    common: dict[str, object] = {"trainer": trainer, "checkpoint_s": options.checkpoint_seconds}
    if devices.device_count(trainer) > 1:
        if options.engine != "local":
            raise ConfigError(f"the {options.engine} engine gives a trial one device; several need --engine=local")
        return make_engine("local", workers=options.workers or 1, run_job=devices.run_job, **common)
    if options.engine == "local":
        return make_engine("local", workers=options.workers, data=data, **common)
    common["gpus"] = options.gpus or 0.0
    if options.engine == "ray":
        storage = options.out if is_url(options.out) else None
        return make_engine("ray", address=options.ray_address, storage=storage, **common)
    return make_engine("slurm", partition=options.partition, **common)


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], Options, dict[str, str], dict[str, object]]:
    """The studies, this program's options, the settings of trials, and the arguments of the Trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="+", help="files of experiments/sweeps, without .yaml; or paths; or all")
    add_trial_settings(parser)
    positive = ("seeds", "workers", "margin", "gpus")
    given, options, rest = read_options(parser, Options, arguments, positive=positive)
    trainer = {}
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not (name.startswith("--trainer.") and equals):
            refuse([argument], [*OPTIONS, *hints(Options), "trainer.NAME"])
        trainer[name.removeprefix("--trainer.")] = yaml.safe_load(value)
    if options.engine not in ENGINES:
        raise unknown("engine", options.engine, ENGINES)
    if is_url(options.out) and options.engine != "ray":
        raise ConfigError(f"out must be a folder for the {options.engine} engine, not {options.out}; ray takes a URL")
    names = list_studies(SWEEPS) if given.study == ["all"] else given.study
    return names, options, trial_settings(given), checked_trainer(trainer)


def checked_trainer(trainer: Mapping[str, object]) -> dict[str, object]:
    import lightning as L

    check_names("argument of the Trainer", trainer, inspect.signature(L.Trainer).parameters)
    return dict(trainer)


def load(name: str, options: Options, settings: Mapping[str, str]) -> Study:
    """The study with profile and command line laid over its file."""
    path = sweep_file(name)
    return load_study(path, overrides(path.stem, options.profile, options.seeds, settings))


def plan(studies: Sequence[Study], root: Path, options: Options, trainer: Mapping[str, object]) -> list[Job]:
    """The runs of all studies, each once; the study named first keeps one that several share.

    Raises:
        ConfigError: This machine cannot run them.
    """
    jobs: dict[str, Job] = {}
    for study in studies:
        for _, trial in study.trials:
            jobs.setdefault(trial.run_id, Job(trial, root, study.name, compile=options.compile))
    if options.engine == "local":  # others run elsewhere
        check_compile(options.compile)
        for job in jobs.values():
            check_precision(job.trial.precision)
    if options.engine != "local" or devices.device_count(trainer) > 1:
        return list(jobs.values())
    workers = options.workers or default_workers()
    return plan_packs(list(jobs.values()), workers, pack_size(options.pack), gpu=torch.cuda.is_available())


def tell_starts(study: Study) -> Iterator[str]:
    """What each cell's network starts with of pretrained weights.

    Raises:
        ConfigError: They cannot be read, or are of another network.
    """
    for cell in study.cells:
        trial = cell.trials[0]
        if trial.pretrained is not None:
            data = trial.input_spec()
            net = mnet.create_model(trial.network(data.num_classes, data.in_channels))
            yield f"{cell.name}: {load_pretrained(trial.pretrained, net)}"


def pack_size(pack: str) -> int | None:
    """
    Raises:
        ConfigError: It is neither a number of seeds nor auto.
    """
    if pack == "auto":
        return None
    if not pack.isdecimal() or int(pack) < 1:
        raise ConfigError(f"pack must be auto or a number of seeds from 1 on, not {pack}; 1 = every run by itself")
    return int(pack)


def read_data(jobs: Sequence[Job]) -> list[ImageData]:
    """Fetch, verify and read every data set before any training."""
    found: dict[tuple[object, ...], ImageData] = {}
    for job in jobs:
        trial = job.trial
        key = trial.dataset, trial.data_dir, trial.resolution
        if key not in found:
            found[key] = load_data(trial, trial.full_recipe())
    return list(found.values())


def run(studies: Sequence[Study], root: Path, engine: Engine, jobs: Sequence[Job], margin: float) -> int:
    """Run what is not finished, and write the tables of every study as results come."""
    gc.freeze()  # statsmodels collects garbage at every table, and what was imported is none
    share(studies, root)
    todo = [job for job in jobs if read_result(job.folder) is None]
    users = {job.run_id: [study for study in studies if job.run_id in run_ids(study)] for job in jobs}
    failed: list[Event] = []
    with Display(studies, jobs, todo) as display:

        def tell(event: Event) -> None:
            display.tell(event)
            if event.kind == "failed":
                failed.append(event)
            if event.kind == "finished":
                share(users[event.job.run_id], root)
            if event.kind in ("finished", "failed"):
                for study in users[event.job.run_id]:
                    write_tables(study, root, margin=margin, figure=False)

        try:
            engine.run(todo, tell)
        except KeyboardInterrupt:
            kept = sum(read_result(job.folder) is not None for job in jobs)
            print(
                f"\nstopped; {kept} finished runs and the checkpoints of others are kept: run the same command to go on"
            )
            return INTERRUPTED
    for study in studies:
        print_summary(study, write_tables(study, root, margin=margin), root / study.name, margin)
    for event in failed:
        where = event.job.folder / FAILURE
        print(f"failed: {event.job.run_id}: {event.content} ({where})", file=sys.stderr)
    return 1 if failed else 0


def share(studies: Sequence[Study], root: Path) -> None:
    """Copy what another study has finished."""
    for study in studies:
        for _, trial in study.trials:
            folder = run_folder(root, study.name, trial.run_id)
            if read_result(folder) is None and (source := find_finished(root, trial.run_id)) is not None:
                adopt(source, folder)


def run_ids(study: Study) -> set[str]:
    return {trial.run_id for _, trial in study.trials}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before any run began
        sys.exit(INTERRUPTED)

"""Run one study on this machine: `python experiments/ablate.py activation --model=mobilenet_v2 --seeds=5`.

Finished runs are not paid for again; stop with Ctrl-C and run the same command to go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from display import Display, print_summary

from mnet.errors import ConfigError, DataError, unknown
from mnet.settings import coerce
from mnet.studies.local import Event, Job, run_jobs
from mnet.studies.sweep import Study, load_study
from mnet.studies.trial import PARAMETERS, Trial, field_docs

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all runs finished, 1 some failed, 2 bad input, 130 interrupted."""
    try:
        options, settings = read_arguments(arguments)
        study = load(options, settings)
        check_data(study)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = Path(options.out or "results") / study.name
    for reason in study.refused:
        print(f"left out, {reason}")
    return run(study, folder, options.workers)


def read_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a file of experiments/sweeps, without .yaml, or a path")
    parser.add_argument("--profile", default="quick", help="an entry of experiments/profiles.yaml")
    parser.add_argument("--seeds", help="number of seeds: 0 .. N-1")
    parser.add_argument("--out", help="folder for results (default: results)")
    parser.add_argument("--workers", help="trials side by side (default: one a core)")
    group = parser.add_argument_group("settings of every trial (a comma separates values of a list)")
    for name in PARAMETERS:
        group.add_argument(f"--{name}", help=field_docs()[name].replace("%", "%%"), metavar="VALUE")
    options, rest = parser.parse_known_args(arguments)
    allowed = [*PARAMETERS, "profile", "seeds", "out", "workers"]
    for argument in rest:
        raise unknown("option", argument.partition("=")[0].lstrip("-"), allowed)
    for name in ("seeds", "workers"):
        value = getattr(options, name)
        if value is not None:
            setattr(options, name, coerce(name, value, int))
            if getattr(options, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
    return options, {name: getattr(options, name) for name in PARAMETERS if getattr(options, name) is not None}


def load(options: argparse.Namespace, settings: Mapping[str, str]) -> Study:
    """The study with profile and command line laid over its file."""
    profiles = yaml.safe_load((HERE / "profiles.yaml").read_text())
    if options.profile not in profiles:
        raise unknown("profile", options.profile, profiles)
    overrides: dict[str, Sequence[object]] = {name: [value] for name, value in profiles[options.profile].items()}
    overrides |= {name: value.split(",") for name, value in settings.items()}
    if options.seeds is not None:
        overrides["seed"] = range(options.seeds)
    given = Path(options.study)
    return load_study(given if given.suffix else HERE / "sweeps" / f"{given}.yaml", overrides)


def check_data(study: Study) -> None:
    """Fetch, verify and read every data set of the study before any training."""
    from mnet.data import create_data

    for trial in {Trial(dataset=t.dataset, data_dir=t.data_dir, resolution=t.resolution) for _, t in study.trials}:
        data = create_data(trial.dataset, data_dir=trial.data_dir, resolution=trial.resolution)
        data.prepare_data()
        data.setup("fit")


def run(study: Study, folder: Path, workers: int | None) -> int:
    from mnet.studies.results import read_result, run_folder, runs_table, write_tables

    jobs: dict[str, Job] = {}
    for _, trial in study.trials:
        jobs.setdefault(trial.run_id, Job(trial, run_folder(folder, trial)))
    todo = [job for job in jobs.values() if read_result(job.folder) is None]
    failed: list[Event] = []

    with Display(study, jobs=len(jobs), done=len(jobs) - len(todo)) as display:

        def tell(event: Event) -> None:
            display.tell(event)
            if event.kind == "finished":
                write_tables(study, folder, figure=False)
            if event.kind == "failed":
                failed.append(event)

        try:
            run_jobs(todo, tell, workers=workers)
        except KeyboardInterrupt:
            print(f"\nstopped; {len(runs_table(study, folder))} runs are kept, run the same command to go on")
            return 130
    print_summary(study, *write_tables(study, folder), folder)
    for event in failed:
        print(f"failed: {event.job.trial.run_id}: {event.content} ({event.job.folder / 'error.txt'})", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before any run began
        sys.exit(130)

"""Latency of a study's networks on an Android phone: `python experiments/latency_android.py se`, then the script that
it names, then `--import=FOLDER` for the table. A runtime has a folder of its own, with ratios to the study's baseline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from common.options import add_trial_settings, overrides, read_options, refuse, sweep_file, trial_settings

from mnet.errors import ConfigError, unknown
from mnet.files import write_csv
from mnet.latency.comparison import prepare
from mnet.latency.phone import RUNNERS, import_results, write_kit
from mnet.latency.runtimes import ExportError, Runtime, make_runtime
from mnet.settings import hints
from mnet.studies.latency.tables import Subject, build
from mnet.studies.options import OPTIONS
from mnet.studies.runs.store import LATENCY
from mnet.studies.study import Study, load_study


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for, beside the settings of its trials."""

    profile: str = "latency"
    """An entry of experiments/profiles.yaml."""
    runtime: str = "litert,executorch"
    """litert, executorch or onnxruntime; several with commas between."""
    out: str = "results"
    """Folder for results; what goes to the phone is in latency-android/<study>/<runtime> there."""
    threads: int = 1
    """That a network may use on the phone."""
    rounds: int = 15
    """In which each network runs once, as a process of its own."""
    runs: int = 50
    """Inferences a process."""
    big_cores: str = "f0"
    """Mask of the phone's cores to run on, hexadecimal: f0 = 4 to 7."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a network could not be exported, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", help="a file of experiments/sweeps, without .yaml; or a path")
    parser.add_argument("--import", dest="folder", metavar="FOLDER", help="read what the phone printed there instead")
    add_trial_settings(parser)
    try:
        positive = ("threads", "rounds", "runs")
        given, options, rest = read_options(parser, Options, arguments, positive=positive)
        refuse(rest, [*OPTIONS, *hints(Options), "import"])
        if given.folder is not None:
            show(Path(given.folder))
            return 0
        if given.study is None:
            raise ConfigError("name a study to export, or --import=FOLDER to read what a phone printed")
        machines = runtimes(options)
        laid = overrides(given.study, options.profile, None, trial_settings(given))
        study = load_study(sweep_file(given.study), laid)
        kits = [write(study, machine, options) for machine in machines]
        return 0 if all(kits) else 1
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def runtimes(options: Options) -> list[Runtime]:
    """
    Raises:
        ConfigError: One that is unknown, not for a phone or not installed.
    """
    names = options.runtime.split(",")
    allowed = [runner.runtime for runner in RUNNERS.values()]
    for name in names:
        if name not in allowed:
            raise unknown("runtime for a phone", name, allowed)
    return [make_runtime(name, folder=Path(options.out) / "exported") for name in names]


def write(study: Study, runtime: Runtime, options: Options) -> bool:
    """Export every cell, check it against eager and write the kit of one runtime. Returns whether all are in it."""
    folder = Path(options.out) / "latency-android" / study.name / runtime.name
    programs: dict[str, Path] = {}
    for cell in study.cells:
        subject = Subject(cell.trials[0])
        try:
            programs[cell.name] = Path(prepare(runtime, build(subject), subject.resolution).program.ran.file)
        except ExportError as error:
            print(f"{cell.name} is left out: {error}", file=sys.stderr)
    if study.baseline not in programs:
        print(f"error: without the baseline {study.baseline} there is nothing to compare with", file=sys.stderr)
        return False
    script = write_kit(
        programs,
        folder,
        baseline=study.baseline,
        threads=options.threads,
        rounds=options.rounds,
        runs=options.runs,
        big_cores=options.big_cores,
    )
    needed = {RUNNERS[path.suffix].binary for path in programs.values()}
    print(
        f"{len(programs)} models in {folder}; put {', '.join(sorted(needed))} into its bin/ (where from: the head of "
        f"run.sh), attach a phone, then: sh {script}"
    )
    return len(programs) == len(study.cells)


def show(folder: Path) -> None:
    frame = import_results(folder)
    write_csv(folder / LATENCY, frame)
    print(", ".join(f"{name} {value}" for name, value in frame.attrs["device"].items()))
    with pd.option_context("display.width", 160, "display.max_colwidth", 80):
        print(frame.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    for run, why in frame.attrs["failed"].items():
        print(f"{run}: {why}")
    print(f"  {folder / LATENCY}")


if __name__ == "__main__":
    sys.exit(main())

"""Time a study's networks on an Android phone.

    python experiments/latency_android.py se                   # export, and write the script to run
    python experiments/latency_android.py --import=FOLDER      # read what the phone printed, as ratios to the baseline

Each runtime has its own folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.sweeps import load_sweep

from mnet.errors import ConfigError, unknown
from mnet.files import write_csv
from mnet.latency.phone import RUNNERS, import_results, write_kit
from mnet.latency.prepare import prepare
from mnet.latency.runtimes import ExportError, Runtime, make_runtime
from mnet.studies.latency.subjects import Subject, build_module
from mnet.studies.runs.store import LATENCY
from mnet.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options other than the settings of a network."""

    profile: str = "latency"
    """An entry of experiments/profiles.yaml."""
    runtime: str = "litert,executorch"
    """litert, executorch or onnxruntime; a comma separates several."""
    out: str = "results"
    """Folder for results; the files for the phone go to latency-android/<study>/<runtime> there."""
    threads: int = 1
    """Threads of a network on the phone."""
    rounds: int = 15
    """Rounds; in each, every network runs once, in its own process."""
    runs: int = 50
    """Inferences per process."""
    big_cores: str = "f0"
    """Hexadecimal mask of the phone's cores to run on: f0 = cores 4 to 7."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "rounds", "runs")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__, trial=True)
    parser.add_argument("study", nargs="?", help="a study of experiments/sweeps, by its name or path")
    parser.add_argument("--import", dest="folder", metavar="FOLDER", help="Read what the phone printed into FOLDER.")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if a network could not be exported, 2 for bad input."""
    given = read_arguments(arguments)
    options, study = given.options, given.values.study
    if given.values.folder is not None:
        show(Path(given.values.folder))
        return 0
    if study is None:
        raise ConfigError("name a study to export, or --import=FOLDER to read what a phone printed")
    runtimes = make_runtimes(options)
    loaded = load_sweep(study, options.profile, settings=given.settings)
    complete = [write(loaded, runtime, options) for runtime in runtimes]
    return 0 if all(complete) else 1


def make_runtimes(options: Options) -> list[Runtime]:
    """
    Raises:
        ConfigError: A runtime is unknown, does not run on a phone or is not installed.
    """
    allowed = [runner.runtime for runner in RUNNERS.values()]
    names = options.runtime.split(",")
    for name in names:
        if name not in allowed:
            raise unknown("runtime for a phone", name, allowed)
    return [make_runtime(name, folder=Path(options.out) / "exported") for name in names]


def write(study: Study, runtime: Runtime, options: Options) -> bool:
    """Export every cell, check it against eager and write the files for the phone. Returns whether no cell failed."""
    folder = Path(options.out) / "latency-android" / study.name / runtime.name
    programs: dict[str, Path] = {}
    for cell in study.cells:
        subject = Subject(cell.trials[0])
        try:
            programs[cell.name] = Path(prepare(runtime, build_module(subject), subject.resolution).program.info.file)
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
    binaries = sorted({RUNNERS[path.suffix].binary for path in programs.values()})
    print(f"{len(programs)} models in {folder}; put {', '.join(binaries)} into its bin/ (the head of run.sh explains "
          f"where to get it), attach a phone, then: sh {script}")  # fmt: skip
    return len(programs) == len(study.cells)


def show(folder: Path) -> None:
    """Print and write the table of what a phone printed."""
    frame = import_results(folder)
    write_csv(folder / LATENCY, frame)
    print(", ".join(f"{name} {value}" for name, value in frame.attrs["device"].items()))
    with pd.option_context("display.width", 160, "display.max_colwidth", 80):
        print(frame.to_string(index=False, float_format="{:.3f}".format, na_rep=""))
    for run, reason in frame.attrs["failed"].items():
        print(f"{run}: {reason}")
    print(f"  {folder / LATENCY}")


if __name__ == "__main__":
    sys.exit(main())

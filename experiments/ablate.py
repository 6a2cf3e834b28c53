"""Run studies, one, several or `all`: `python experiments/ablate.py activation --model=mobilenet_v2 --seeds=5`.

With `--until=decided --budget=2h`, seeds are added where a decision is likeliest, until every comparison is decided or
the budget runs out. Finished runs of any study are reused. Stop with Ctrl-C; the same command continues.
"""

from __future__ import annotations

from common.workers import start_worker_server

if __name__ == "__main__":
    start_worker_server()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.deciding import Undecided, compare_with_baseline, read_duration, run_until_decided
from common.driver import (
    RunOptions,
    choose_engine,
    describe_images,
    describe_pretrained,
    plan_jobs,
    read_data,
    run_studies,
)
from common.options import Arguments, Parser
from common.program import begin_training, program
from common.sweeps import STUDIES_HELP, SWEEPS, load_sweep

from mnet.errors import ConfigError
from mnet.studies.engines.remote import is_url
from mnet.studies.plan import LOOKS, make_plan
from mnet.studies.runs.store import find_finished, results_root
from mnet.studies.study import Study, list_studies


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Command-line options other than the settings of a trial."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    until: Literal["seeds", "decided"] = "seeds"
    """seeds = train the given number; decided = add seeds until every comparison is decided, up to that number."""
    budget: str | None = None
    """Time limit with until=decided: 90m, 2h, or seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_url(self.out) and self.engine != "ray":
            raise ConfigError(
                f"out must be a folder for the {self.engine} engine, not {self.out}; only --engine=ray takes a URL"
            )
        if self.budget is not None and self.until != "decided":
            raise ConfigError(f"budget={self.budget} needs until=decided; otherwise every seed is trained")
        read_duration(self.budget)

    @property
    def most_seeds(self) -> int | None:
        """The largest number of seeds of a study; None = as in its file."""
        return self.seeds if self.until == "seeds" else self.seeds or LOOKS[-1]


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__, trial=True, trainer=True)
    parser.add_argument("study", nargs="+", help=STUDIES_HELP)
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all runs finished, 1 some failed, 2 bad input, 130 interrupted."""
    begin_training()
    given = read_arguments(arguments)
    options, trainer = given.options, given.trainer
    names = list_studies(SWEEPS) if given.values.study == ["all"] else given.values.study
    studies = [load_sweep(name, options.profile, options.most_seeds, given.settings) for name in names]
    root = results_root(str(options.folder), trainer)
    jobs = plan_jobs(studies, root, options, trainer)
    for study in studies:
        list(describe_pretrained(study))  # reports wrong weights before images are read
    data = read_data([job for job in jobs if find_finished(root, job.run_id) is None])
    starts = [line for study in studies for line in describe_pretrained(study, data)]
    engine = choose_engine(options, trainer, data)
    for study in studies:
        for reason in study.refused:
            print(f"left out of {study.name}, {reason}")
        for line in make_plan(study, root, looks(study, options), options.margin):
            print(line)
    for line in (*describe_images(data, studies, root), *starts):
        print(line)
    if options.until == "seeds":
        return run_studies(studies, root, engine, jobs, options)
    fronts = [Undecided(study, root, compare_with_baseline(study, options.margin)) for study in studies]
    return run_until_decided(fronts, engine, options, options.budget, trainer)


def looks(study: Study, options: Options) -> tuple[int, ...]:
    """The numbers of seeds at which this call looks at a study."""
    seeds = max(len(cell.trials) for cell in study.cells)
    return (seeds,) if options.until == "seeds" else (*(look for look in LOOKS if look < seeds), seeds)


if __name__ == "__main__":
    sys.exit(main())

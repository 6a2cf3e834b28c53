"""Run a study by W&B's sweep agents, on any number of machines.

    python experiments/sweep.py activation --profile=full --seeds=5   # register the sweep file, once
    python experiments/sweep.py --agent=entity/project/id             # work on it, on every machine

Each agent trains with experiments/train.py; a run that is finished under --out is logged without training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import wandb
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.sweeps import HERE, SWEEPS, overrides, sweep_file

from mnet.errors import ConfigError, unknown
from mnet.studies.runs.tracking import project, require_account
from mnet.studies.study import check_sweep, lay_over, list_studies, load_study

ARGS = "${args}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a call asks for, beside the settings of its trials."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str | None = None
    """Folder for results on the agents' machines; default: results."""
    agent: str | None = None
    """Work on this registered sweep, entity/project/id."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__, trial=True)
    parser.add_argument("study", nargs="?", help="a study of experiments/sweeps, by its name or path")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 registered, 2 bad input or no account; an agent has its own."""
    given = read_arguments(arguments)
    study, options = given.values.study, given.options
    if given.values.agent == "":
        raise ConfigError("which sweep? make agent SWEEP=entity/project/id, as printed by make sweep")
    if options.agent is not None:
        run_agent(options.agent)
    if not study:
        raise ConfigError(f"which study? One of {', '.join(list_studies(SWEEPS))}: make sweep STUDY=...")
    content = sweep_content(study, options, given.settings)
    require_account(f"make ablate-{study}")
    try:
        print(f"work on it, on every machine, with: make agent SWEEP={register(content)}")
    except wandb.Error as error:
        raise ConfigError(f"W&B: {error}") from None
    return 0


def sweep_content(study: str, options: Options, settings: Mapping[str, object]) -> dict[str, object]:
    """What is registered: the sweep file with the parameters of profile and command line.

    Raises:
        ConfigError: An unknown study, profile, setting or value.
    """
    path = sweep_file(study)
    if not path.is_file():
        raise unknown("study", path.stem, list_studies(path.parent))
    replaced = overrides(path.stem, options.profile, options.seeds, settings)
    content = lay_over(check_sweep(path), replaced)
    if content["method"] == "grid":
        for reason in load_study(path, replaced).refused:
            print(f"will fail, {reason}")
    if options.out is not None:
        command = list(cast(list[str], content["command"]))
        command.insert(command.index(ARGS), f"--out={options.out}")
        content["command"] = command
    return content


def register(content: dict[str, object]) -> str:
    """Register a sweep; returns its full id."""
    name = wandb.sweep(content, project=None if "project" in content else project())
    return f"{os.environ['WANDB_ENTITY']}/{os.environ['WANDB_PROJECT']}/{name}"  # wandb.sweep sets both


def run_agent(sweep: str) -> NoReturn:
    """Become W&B's own agent, in this repository, with this Python as `python`."""
    require_account("make ablate-<study>")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.chdir(HERE.parent)
    os.execve(sys.executable, [sys.executable, "-m", "wandb", "agent", sweep], {**os.environ, "PATH": path})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())

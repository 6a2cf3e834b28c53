"""Run a study by W&B's sweep agents, on as many machines as wanted.

    python experiments/sweep.py activation --profile=full --seeds=5   # register the sweep file, once
    python experiments/sweep.py --agent=entity/project/id             # work on it, on every machine

Each agent trains with experiments/train.py; a run that is finished under --out is logged, not trained.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import wandb
from common.options import HERE, SWEEPS, add_trial_settings, overrides, read_options, refuse, sweep_file, trial_settings

from mnet.errors import ConfigError, unknown
from mnet.settings import hints
from mnet.studies.options import OPTIONS
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
    """Work on this registered sweep: entity/project/id."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 registered, 2 bad input or no account; an agent has its own."""
    try:
        study, options, settings = read_arguments(arguments)
        if options.agent is not None:
            run_agent(options.agent)
        content = registration(study, options, settings)
        require_account(f"make ablate-{study}")
        print(f"work on it, on every machine, with: make agent SWEEP={register(content)}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except wandb.Error as error:
        print(f"error: W&B: {error}", file=sys.stderr)
        return 2
    return 0


def read_arguments(arguments: Sequence[str] | None) -> tuple[str, Options, dict[str, str]]:
    """The study, this program's options, and the settings of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", help="a file of experiments/sweeps, without .yaml; or a path")
    add_trial_settings(parser)
    given, options, rest = read_options(parser, Options, arguments, positive=("seeds",))
    refuse(rest, [*OPTIONS, *hints(Options)])
    if given.agent == "":
        raise ConfigError("which sweep? make agent SWEEP=entity/project/id, as make sweep has printed it")
    if options.agent is None and not given.study:
        raise ConfigError(f"which study? One of {', '.join(list_studies(SWEEPS))}: make sweep STUDY=...")
    return given.study, options, trial_settings(given)


def registration(study: str, options: Options, settings: Mapping[str, str]) -> dict[str, object]:
    """What is registered: the sweep file with profile and command line laid over its parameters."""
    path = sweep_file(study)
    if not path.is_file():
        raise unknown("study", path.stem, list_studies(path.parent))
    over = overrides(path.stem, options.profile, options.seeds, settings)
    content = lay_over(check_sweep(path), over)
    if content["method"] == "grid":
        for reason in load_study(path, over).refused:
            print(f"will fail, {reason}")
    if options.out is not None:
        command = list(cast(list[str], content["command"]))
        command.insert(command.index(ARGS), f"--out={options.out}")
        content["command"] = command
    return content


def register(content: dict[str, object]) -> str:
    """Register a sweep; returns its full id."""
    name = wandb.sweep(content, project=None if "project" in content else project())
    return f"{os.environ['WANDB_ENTITY']}/{os.environ['WANDB_PROJECT']}/{name}"  # set from W&B's answer


def run_agent(sweep: str) -> NoReturn:
    """Become W&B's own agent, where the programs are and with this Python as `python`."""
    require_account("make ablate-<study>")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.chdir(HERE.parent)
    os.execve(sys.executable, [sys.executable, "-m", "wandb", "agent", sweep], {**os.environ, "PATH": path})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())

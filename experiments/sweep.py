"""Run a study with W&B's sweep agents, on any number of machines.

    python experiments/sweep.py activation --profile=full --seeds=5   # register the sweep file, once
    python experiments/sweep.py --agent=entity/project/id             # work on it, on every machine

Each agent trains with experiments/train.py; a run that is finished under --out is logged without training.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import wandb
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.sweeps import HERE, SWEEPS, overrides, sweep_file

from mnet.errors import ConfigError, path_text, unknown
from mnet.studies.runs.tracking import project, require_account
from mnet.studies.study import check_sweep, lay_over, list_studies, load_study

PROGRAM = "experiments/train.py"
INTERPRETER, ARGS = ("${env}", "${interpreter}", "${program}"), "${args}"
"""Start and end of a command; in between are options of the program, `--NAME=VALUE`."""
LAUNCHED = ("job", "image_uri")
"""Keys that make W&B start other kinds of programs."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options other than the settings of a trial."""

    profile: str = "quick"
    """An entry of experiments/profiles.yaml."""
    seeds: int | None = None
    """Number of seeds, 0 .. N-1; default: the sweep file's."""
    out: str | None = None
    """Folder for results on the agents' machines; default: results."""
    agent: str | None = None
    """Work on this registered sweep, entity/project/id."""
    own_command: bool = False
    """Register the sweep file's own program and command, which every agent will run; else only mnet's are allowed."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds")


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    parser = Parser(Options, __doc__, trial=True)
    parser.add_argument("study", nargs="?", help="a study of experiments/sweeps, by its name or path")
    return parser.read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 registered, 2 bad input or no account; an agent returns its own."""
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
    """The sweep to register: the sweep file with the parameters of profile and command line.

    Raises:
        ConfigError: An unknown study, profile, setting or value; or the file's command is not mnet's.
    """
    path = sweep_file(study)
    if not path.is_file():
        raise unknown("study", path.stem, list_studies(path.parent))
    replaced = overrides(path.stem, options.profile, options.seeds, settings)
    content = with_command(path, lay_over(check_sweep(path), replaced), options.own_command)
    if content["method"] == "grid":
        for reason in load_study(path, replaced).refused:
            print(f"will fail: {reason}")
    if options.out is not None:
        command = list(cast(list[str], content["command"]))
        command.insert(command.index(ARGS), f"--out={options.out}")
        content["command"] = command
    return content


def with_command(path: Path, content: Mapping[str, object], allow_others: bool) -> dict[str, object]:
    """The content of a sweep file with the command of its agents: mnet's, unless `allow_others`.

    Raises:
        ConfigError: The file has another; the message shows it.
    """
    default: dict[str, object] = {"program": PROGRAM, "command": [*INTERPRETER, f"--study={path.stem}", ARGS]}
    content = {**default, **content}
    command = content["command"] if isinstance(content["command"], list) else []
    *before, last = map(str, command or [""])
    trusted = (
        content["program"] == PROGRAM
        and not any(key in content for key in LAUNCHED)
        and (tuple(before[: len(INTERPRETER)]), last) == (INTERPRETER, ARGS)
        and all(re.fullmatch(r"--[\w.]+=[^$]*", part) for part in before[len(INTERPRETER) :])
    )
    if not (trusted or allow_others):
        shown = {name: content[name] for name in ("program", "command", *LAUNCHED) if name in content}
        raise ConfigError(
            f"{path_text(path)} sets its own command, which every agent would run: {path_text(json.dumps(shown))}. "
            "Remove these keys to use mnet's command, or give --own_command if you trust this one"
        )
    return content


def register(content: dict[str, object]) -> str:
    """Register a sweep; returns its full id."""
    name = wandb.sweep(content, project=None if "project" in content else project())
    return f"{os.environ['WANDB_ENTITY']}/{os.environ['WANDB_PROJECT']}/{name}"  # wandb.sweep sets both


def run_agent(sweep: str) -> NoReturn:
    """Replace this process by W&B's agent, in this repository, with this Python as `python`."""
    require_account("make ablate-<study>")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.chdir(HERE.parent)
    os.execve(sys.executable, [sys.executable, "-m", "wandb", "agent", sweep], {**os.environ, "PATH": path})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())

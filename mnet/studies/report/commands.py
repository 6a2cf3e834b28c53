"""The exact command that reproduces a row."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnet.errors import ConfigError, text
from mnet.settings import changed
from mnet.studies.claims.pairs import PAPER
from mnet.studies.options import PARAMETERS, trial_from
from mnet.studies.results.archive import is_known
from mnet.studies.results.finished import RESOLVED
from mnet.studies.results.table_view import Row
from mnet.studies.runs.store import CONFIG, run_folder
from mnet.studies.trial import Trial

TRAIN = ".venv/bin/python experiments/train.py"
DECIDED = (*RESOLVED, "resolution")
"""Settings that tables hold as the recipe or the data set resolved them, not as requested."""
_WORD = r"""(?:[\w@%+=:,./-]|'[^'\n]*'|"'")+"""
_CALL = rf"(?:make [\w.-]+|\.venv/bin/python experiments/\w+\.py)(?: {_WORD})*"
OFFERED = re.compile(rf"{_CALL}(?:(?: && |\n){_CALL})*", re.ASCII)
"""Matches Makefile targets and programs of this repository, each argument a single shell word."""


@dataclass(frozen=True)
class ResultsFolder:
    """The results folder, and its name in commands."""

    root: Path

    @property
    def shown(self) -> str | None:
        """Path relative to the working directory; None for a folder outside it, whose path is private."""
        shown = os.path.relpath(self.root)
        return None if shown.startswith("..") else shown

    def config(self, study: str, run_id: str) -> str | None:
        """Path of a run's config in this folder; None if there is none, or the path is private."""
        folder = run_folder(self.root, study, run_id)
        if self.shown is None or not (folder / CONFIG).is_file():
            return None
        return f"{self.shown}/{study}/runs/{run_id}/{CONFIG}"


def offered(command: str) -> str:
    """The command, if the page may offer it to copy; empty if it contains more than programs and their arguments, since
    tables and files may come from anyone."""
    visible = all(line.isprintable() for line in command.split("\n"))
    expanded = command.startswith("make") and re.search("[$`]", command)  # by make, or by the shell of a recipe
    return command if visible and not expanded and OFFERED.fullmatch(command) else ""


def settings_in(row: Row, names: Iterable[str] = PARAMETERS) -> dict[str, Any]:
    """The settings of a row that differ from the paper."""
    return {name: row[name] for name in names if name in row and is_known(row[name]) and row[name] != PAPER}


def trial_of(row: Row, rates: Iterable[float] = ()) -> Trial | None:
    """The trial of a row of `runs.csv`, with as few explicit settings as possible.

    Args:
        row: A row of `runs.csv`.
        rates: Learning rates to try besides the row's own: an int8-qat run has a tenth of its trial's.

    Returns:
        None if no combination of settings has the row's `run_id`.
    """
    settings = settings_in(row, [name for name in PARAMETERS if name not in DECIDED])
    choices = {name: [None, *([row[name]] if name in row and is_known(row[name]) else [])] for name in DECIDED}
    choices["lr"] += [rate for rate in rates if rate not in choices["lr"]]
    spellings = itertools.product(*(choices[name] for name in DECIDED))
    for values in sorted(spellings, key=lambda values: sum(value is not None for value in values)):
        more = {name: value for name, value in zip(DECIDED, values, strict=True) if value is not None}
        try:
            trial = trial_from({**settings, **more})
        except (ConfigError, ValueError, TypeError):
            continue
        if trial.run_id == row.get("run_id"):
            return trial
    return None


def run_command(folder: ResultsFolder, row: Row, rates: Iterable[float] = ()) -> str:
    """The command that trains a run again: from its config if there is one, else from its settings."""
    config = folder.config(str(row["study"]), str(row["run_id"]))
    if config is not None:
        return f"{TRAIN} {shlex.quote('--config=' + config)} --out=again"
    trial = trial_of(row, rates)
    settings = settings_in(row) if trial is None else settings_of(trial)
    if is_known(row.get("images")):  # tables do not hold the folder of a user's images
        settings["data_dir"] = "FOLDER"
    return " ".join([TRAIN, *(shlex.quote(f"--{name}={text(value)}") for name, value in settings.items())])


def settings_of(trial: Trial) -> dict[str, object]:
    """The settings that differ from their defaults, plus model and seed, without the image folder."""
    wanted = {"model", "seed", *changed(trial)} - {"data_dir"}
    return {name: value for name, value in trial.settings().items() if name in wanted}


def latency_command(row: Row, target: str = "latency") -> str:
    """The command that times the networks of a row's study again, on its runtime."""
    words = [f"{target}-{row['study']}", f"RUNTIME={row['runtime']}", f"THREADS={row['threads']}"]
    if is_known(row.get("batch")) and int(row["batch"]) != 1:
        words.append(f"BATCH={row['batch']}")
    return " ".join(["make", *map(shlex.quote, words)])

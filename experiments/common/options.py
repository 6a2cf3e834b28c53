"""What the programs share: options read from a dataclass, and the sweep file, profile and command line of a study."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mnet.errors import ConfigError, unknown
from mnet.settings import field_help, hints, parse
from mnet.studies.options import OPTIONS, field_docs
from mnet.studies.study import load_profile

T = TypeVar("T")

HERE = Path(__file__).parents[1]
SWEEPS = HERE / "sweeps"


def read_options(
    parser: argparse.ArgumentParser, cls: type[T], arguments: Sequence[str] | None, *, positive: Sequence[str]
) -> tuple[argparse.Namespace, T, list[str]]:
    """Everything given, the program's own options (the fields of `cls`), and the arguments unknown to the parser.

    Args:
        parser: With what is no field of `cls`.
        cls: A dataclass.
        arguments: None = those of this process.
        positive: Fields that must be above 0 where they are given.

    Raises:
        ConfigError: A value that does not fit.
    """
    own = field_help(cls)
    for name, text in own.items():
        parser.add_argument(f"--{name}", help=text.replace("%", "%%"), metavar="VALUE")
    given, rest = parser.parse_known_args(arguments)
    options = parse(cls, {name: value for name in own if (value := getattr(given, name)) is not None}, "option")
    for name in positive:
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    return given, options, rest


def read_own_options(
    parser: argparse.ArgumentParser, cls: type[T], arguments: Sequence[str] | None, *, positive: Sequence[str] = ()
) -> tuple[argparse.Namespace, T]:
    """As `read_options`, for a program that takes nothing beside.

    Raises:
        ConfigError: As `read_options`, or an argument is left.
    """
    given, options, rest = read_options(parser, cls, arguments, positive=positive)
    refuse(rest, list(hints(cls)))
    return given, options


def add_trial_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings of every trial (a comma separates values of a list)")
    for name in OPTIONS:
        group.add_argument(f"--{name}", help=field_docs()[name].replace("%", "%%"), metavar="VALUE")


def trial_settings(given: argparse.Namespace) -> dict[str, str]:
    return {name: getattr(given, name) for name in OPTIONS if getattr(given, name) is not None}


def refuse(rest: Sequence[str], allowed: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: There is an argument left; the message has the nearest option.
    """
    for argument in rest:
        raise unknown("option", argument.partition("=")[0].lstrip("-"), allowed)


def sweep_file(study: str) -> Path:
    """The file of a study, by its name or a path."""
    return Path(study) if study.endswith((".yaml", ".yml")) else SWEEPS / f"{study}.yaml"


def overrides(study: str, profile: str, seeds: int | None, settings: Mapping[str, str]) -> dict[str, Sequence[object]]:
    """What is laid over a study's file: its profile, then the command line.

    Raises:
        ConfigError: An unknown profile, or a mistake in it.
    """
    found: dict[str, Sequence[object]] = dict(load_profile(HERE / "profiles.yaml", profile, study))
    found |= {name: value.split(",") for name, value in settings.items()}
    if seeds is not None:
        found["seed"] = range(seeds)
    return found

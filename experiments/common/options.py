"""The command line of every program: options are the fields of a dataclass, their docstrings are the help.

`--name=value` sets a field, and `--config=FILE` reads fields from YAML; the command line wins. A program may
also take the settings of a trial, and with `--trainer.NAME=VALUE` the arguments of Lightning's Trainer.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mnet.errors import ConfigError, shown, unknown
from mnet.files import read_yaml
from mnet.settings import coerce, field_help, hints, parse
from mnet.studies.options import OPTIONS, VARIANT, field_docs, listed, read_option, read_variant
from mnet.studies.runs.store import own_network
from mnet.studies.sources import Source, read_source

T = TypeVar("T")

CONFIG = "config"
TRAINER = "trainer"
SET_BY_THE_TRIAL = {
    "max_epochs": "--epochs",
    "callbacks": None,
    "logger": "--wandb",
    "enable_checkpointing": None,
    "plugins": None,
}
"""Arguments of the Trainer that follow from the trial, and the option that sets them."""


@dataclass(frozen=True)
class Arguments(Generic[T]):
    """The parsed command line of a program."""

    options: T
    values: argparse.Namespace
    """Every argument as text; positional ones are only here."""
    settings: dict[str, object]
    """Settings of trials, unparsed."""
    trainer: dict[str, object]
    """Arguments of the Trainer that differ from their defaults."""


class Parser(argparse.ArgumentParser, Generic[T]):
    """Reads a command line into the dataclass `options`.

    Positional arguments are added with `add_argument`. A mistake raises ConfigError with the nearest option.
    """

    def __init__(
        self, options: type[T], description: str | None, *, trial: bool = False, trainer: bool = False
    ) -> None:
        """
        Args:
            options: A dataclass with a default for each field.
            description: Description of the program.
            trial: Whether settings of trials are accepted too.
            trainer: Whether arguments of Lightning's Trainer are accepted too.
        """
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self.options, self.names, self.trainer = options, OPTIONS if trial else (), trainer
        self.add_argument(
            f"--{CONFIG}", help="Read options from this YAML file; the command line wins.", metavar="FILE"
        )
        _add_options(self, options)
        if trial:
            group = self.add_argument_group("settings of every trial (in a study, a comma separates values)")
            for name, text in field_docs().items():
                group.add_argument(f"--{name}", help=text.replace("%", "%%"), metavar="VALUE")
        if trainer:
            self.epilog = (
                f"--{TRAINER}.NAME=VALUE sets an argument of Lightning's Trainer, such as --{TRAINER}.devices=4."
            )

    def error(self, message: str) -> NoReturn:
        """
        Raises:
            ConfigError: Always, instead of ending the process.
        """
        raise ConfigError(f"{message}; --help lists the options")

    def format_usage(self) -> str:
        """One line; the options are listed below it."""
        names = (action.metavar or action.dest for action in self._actions if not action.option_strings)
        return f"usage: {' '.join([self.prog, *map(str, names), '[--NAME=VALUE ...]'])}\n"

    def format_help(self) -> str:
        """The help, with the one-line usage of `format_usage`."""
        self.usage = self.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
        return super().format_help()

    def read(self, arguments: Sequence[str]) -> Arguments[T]:
        """
        Raises:
            ConfigError: An unknown option, or a value that does not fit.
        """
        values, rest = self.parse_known_args(arguments)
        for name, value in vars(values).items():
            setattr(values, name, _at_home(value))
        config, trainer = self._read_config(getattr(values, CONFIG))
        for argument in rest:
            name, equals, value = argument.partition("=")
            if not (self.trainer and name.startswith(f"--{TRAINER}.")):
                raise self._unknown(argument)
            if not equals:
                raise ConfigError(f"write {name}=VALUE, with an equals sign")
            trainer[name.removeprefix(f"--{TRAINER}.")] = _read_yaml(name, value)
        given = {name: value for name, value in vars(values).items() if value is not None}
        for name in self.names:
            for value in listed(name, str(given[name])) if name in given else ():
                read_option(name, value)
        if VARIANT in given:  # wins over the file like any other setting
            named = {name for variant in given[VARIANT].split(",") for name in read_variant(variant)}
            config = {name: value for name, value in config.items() if name not in named}
        given = config | given
        options = parse(self.options, {name: given[name] for name in hints(self.options) if name in given}, "option")
        settings = {name: given[name] for name in self.names if name in given}
        return Arguments(options, values, settings, check_trainer(trainer))

    def _unknown(self, argument: str) -> ConfigError:
        if not argument.startswith("-"):
            return ConfigError(f"unexpected argument {argument!r}; write --NAME=VALUE")
        return unknown("option", argument.partition("=")[0].lstrip("-"), self._allowed())

    def _allowed(self) -> list[str]:
        return [*hints(self.options), *self.names, CONFIG, *([f"{TRAINER}.NAME"] if self.trainer else [])]

    def _read_config(self, path: str | None) -> tuple[dict[str, object], dict[str, object]]:
        """The options of a file, and its arguments of the Trainer."""
        if path is None:
            return {}, {}
        source = read_source(Path(path).expanduser())
        if not isinstance(source.content, dict):
            raise source.error((), "an options file must be a mapping of names to values")
        content = dict(source.content)
        trainer = content.pop(TRAINER, None) if self.trainer else None
        if not isinstance(trainer, dict | NoneType):
            raise source.error(
                (TRAINER,), f"{TRAINER} must be a mapping of arguments of the Trainer, not {shown(trainer)}"
            )
        for name, value in content.items():
            self._check(source, name, value)
            content[name] = _at_home(value)
        if "model" in self.names and "model" in content:
            content["model"] = own_network(source.path.parent, str(content["model"]))
        return content, dict(trainer or {})

    def _check(self, source: Source, name: str, value: object) -> None:
        try:
            if name in hints(self.options):
                coerce(name, value, hints(self.options)[name])
            elif name in self.names:
                for item in value if isinstance(value, list) else [value]:
                    read_option(name, item)
            else:
                raise unknown("option", name, self._allowed())
        except ConfigError as error:
            raise source.error((name,), error) from None


def _add_options(parser: argparse._ActionsContainer, cls: type) -> None:
    """Add the fields of a dataclass; a flag without a value, such as `--write`, sets a bool."""
    for name, text in field_help(cls).items():
        flag: dict[str, str] = {"nargs": "?", "const": "true"} if hints(cls)[name] is bool else {}
        parser.add_argument(f"--{name}", help=text.replace("%", "%%"), metavar="VALUE", **flag)  # type: ignore[arg-type]


def _at_home(value: Any) -> Any:
    """Expand `~` and `~/...` to the home folder, since neither make nor YAML does."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    is_home = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return str(Path(value).expanduser()) if is_home else value


def _read_yaml(name: str, value: str) -> object:
    try:
        return read_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(f"{name.lstrip('-')} must be a valid YAML value, not {shown(value)}") from None


def check_positive(options: object, *names: str) -> None:
    """For `__post_init__`.

    Raises:
        ConfigError: A field of `options` is given and not above 0.
    """
    for name in names:
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ConfigError(f"{name} must be above 0, not {value}")


def check_trainer(trainer: Mapping[str, object]) -> dict[str, object]:
    """The arguments of the Trainer that differ from their defaults.

    Raises:
        ConfigError: An unknown argument, one that follows from the trial, or a value of another type.
    """
    if not trainer:
        return {}
    hints, defaults = _trainer_arguments()
    for name, value in trainer.items():
        if name in SET_BY_THE_TRIAL:
            instead = SET_BY_THE_TRIAL[name]
            way = f"; give {instead}" if instead else ""
            raise ConfigError(f"{TRAINER}.{name} follows from the settings of the trial{way}")
        if name not in defaults:
            raise unknown("argument of the Trainer", name, [key for key in defaults if key not in SET_BY_THE_TRIAL])
        if not _fits(value, hints[name]):
            raise ConfigError(f"{TRAINER}.{name} must be {_written(hints[name])}, not {shown(value)}")
    return {name: value for name, value in trainer.items() if value != defaults[name]}


@cache
def _trainer_arguments() -> tuple[dict[str, object], dict[str, object]]:
    """Types and defaults of the Trainer's arguments; the defaults are those of a trial."""
    import lightning as L

    from mnet.studies.runs.trainer import TRAINER_DEFAULTS

    parameters = inspect.signature(L.Trainer).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()} | dict(TRAINER_DEFAULTS)
    return get_type_hints(L.Trainer.__init__), defaults


def _fits(value: object, hint: object) -> bool:
    """Whether a value from YAML fits a type; a text also fits what Lightning makes from a name, such as a strategy."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    if kind is float and isinstance(value, int):
        return not isinstance(value, bool)
    if kind is int and isinstance(value, bool):
        return False
    return not isinstance(kind, type) or isinstance(value, kind)


def _written(hint: object) -> str:
    types: Iterable[object] = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return " or ".join("null" if kind is NoneType else getattr(kind, "__name__", str(kind)) for kind in types)

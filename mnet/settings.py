"""Typed settings from text: dataclass fields, read the same way from the command line, YAML and keyword arguments."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import textwrap
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mnet.errors import ConfigError, shown, unknown

T = TypeVar("T")

NONE_TEXTS = ("paper", "null", "None", "")  # W&B's agent writes a null as None


def hints(cls: type) -> dict[str, object]:
    """Field name -> type of a dataclass, in declared order."""
    return _hints(cls)


@cache
def _hints(cls: Hashable) -> dict[str, object]:
    assert isinstance(cls, type)
    resolved = get_type_hints(cls)
    return {field.name: resolved[field.name] for field in fields(cls)}


def field_help(cls: type) -> dict[str, str]:
    """Field name -> the docstring under the field, for `--help`."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                value = below.value if isinstance(below, ast.Expr) else None
                text = value.value if isinstance(value, ast.Constant) else None
                docs[field.target.id] = " ".join(text.split()) if isinstance(text, str) else ""
    return {name: docs.get(name, "") for name in hints(cls)}


def check_names(kind: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """
    Raises:
        ConfigError: One of `names` is not in `allowed`; the message has the nearest spelling.
    """
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            raise unknown(kind, name, allowed)


def coerce(name: str, value: object, hint: object) -> Any:
    """`value` as the type `hint`: '0.5' -> 0.5, 'true' -> True, 1.0 -> 1, 'paper' -> None where None is allowed.

    Raises:
        ConfigError: The value does not fit; the message names it and the allowed values.
    """
    if get_origin(hint) in (Union, types.UnionType):
        options = get_args(hint)
        if type(None) in options and (value is None or value in NONE_TEXTS):
            return None
        (hint,) = (option for option in options if option is not type(None))
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        for option in allowed:
            if type(option) is not bool and type(value) is not bool and str(value) in (str(option), f"{option}.0"):
                return option
        raise unknown(name, value, allowed)
    if hint is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (hint is float or number.is_integer()):
            return hint(number)
    if hint is str and isinstance(value, str):
        return value
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, hint):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()  # neither make nor YAML expands ~
    expected = {bool: "true or false", int: "a whole number", float: "a finite number"}.get(hint, str(hint))  # type: ignore[call-overload]
    raise ConfigError(f"{name} must be {expected}, not {shown(value)}")


def parse(cls: type[T], settings: Mapping[str, object], kind: str = "setting") -> T:
    """An instance of the dataclass `cls` from names and values, in any spelling that `coerce` accepts.

    Args:
        cls: The dataclass.
        settings: Field name -> value.
        kind: What the message calls an unknown name.

    Raises:
        ConfigError: An unknown name, or a value that does not fit.
    """
    check_names(kind, settings, hints(cls))
    return cls(**{name: coerce(name, value, hints(cls)[name]) for name, value in settings.items()})


def changed(
    instance: object, dict_factory: Callable[[list[tuple[str, Any]]], dict[str, Any]] = dict
) -> dict[str, object]:
    """The fields of a dataclass that differ from their default; `dict_factory` as in `dataclasses.asdict`."""
    values = asdict(instance, dict_factory=dict_factory)  # type: ignore[call-overload]
    return {f.name: values[f.name] for f in fields(instance) if getattr(instance, f.name) != f.default}  # type: ignore[arg-type]


def check_types(instance: object) -> None:
    """For `__post_init__`: check that every field has its declared type, without changing any.

    Raises:
        ConfigError: A value is not of its field's type.
    """
    for name, hint in hints(type(instance)).items():
        value = getattr(instance, name)
        if coerce(name, value, hint) != value:
            raise ConfigError(f"{name} must not be {shown(value)}; write {coerce(name, value, hint)!r}")

"""Errors that name the value, what is allowed and the nearest spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ConfigError(ValueError):
    """A setting that cannot be used. Raised before anything is built, loaded or trained."""


class DataError(RuntimeError):
    """A data set that is missing, truncated or corrupt. The message names the file and the fix."""


def text(value: object) -> str:
    """A setting as it is written on the command line, in YAML and in tables: None is `paper`."""
    return "paper" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def path_text(path: str | Path) -> str:
    r"""A path on one line that any file can hold; bytes of it that are not UTF-8, and control characters, are escaped.

    >>> print(path_text("caf\udce9.jpg"), path_text("two\nlines.jpg"))
    caf\xe9.jpg two\nlines.jpg
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in str(path))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def unknown(kind: str, value: object, allowed: Iterable[object]) -> ConfigError:
    """The error for a value outside a closed set.

    >>> print(unknown("activation", "h-swsh", ["relu", "hswish"]))
    unknown activation 'h-swsh'; one of relu, hswish. Did you mean hswish?
    """
    names = [text(option) for option in allowed]
    message = f"unknown {kind} {value!r}; one of {', '.join(names)}."
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), by_lower, n=1, cutoff=0.5)
    return ConfigError(f"{message} Did you mean {by_lower[near[0]]}?" if near else message)

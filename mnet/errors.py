"""Errors that name the bad value, the allowed values and the nearest spelling."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)


class ConfigError(ValueError):
    """A setting that cannot be used. Raised before anything is built, loaded or trained."""


class DataError(RuntimeError):
    """A data set that is missing, truncated or corrupt. The message names the file and the fix."""


def text(value: object) -> str:
    """A setting as it is written on the command line, in YAML and in tables: None is `paper`."""
    return "paper" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def path_text(path: str | Path) -> str:
    r"""A path as one line of valid UTF-8: control characters, and bytes that are not UTF-8, are escaped.

    >>> print(path_text("caf\udce9.jpg"), path_text("two\nlines.jpg"))
    caf\xe9.jpg two\nlines.jpg
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in str(path))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """A value for an error message: its `repr`, cut to about 100 characters.

    >>> print(shown("x" * 1000))
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... (1,002 characters)
    """
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return "a number with thousands of digits"
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """
    >>> print(counted(1, "run"), counted(1200, "run"), counted(2, "study", "studies"))
    1 run 1,200 runs 2 studies
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def one_line(error: object) -> str:
    """An error or another library's message, on one line of at most 300 characters that any terminal can show."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return path_text(" ".join(str(reason).split()))[:300] or type(error).__name__


def leave_out(path: Path, reason: object) -> None:
    """Warn that a file is left out, once per file and reason. Everything that does not need it continues."""
    name = path_text(path)
    _log_once(f"{name} is left out: {one_line(reason).removeprefix(name).lstrip(': ')}")


@lru_cache(maxsize=4096)
def _log_once(message: str) -> None:
    log.warning("%s", message)


def unknown(kind: str, value: object, allowed: Iterable[object]) -> ConfigError:
    """The error for a value outside a closed set.

    >>> print(unknown("activation", "h-swsh", ["relu", "hswish"]))
    unknown activation 'h-swsh'; one of relu, hswish. Did you mean hswish?
    """
    names = [text(option) for option in allowed]
    message = f"unknown {kind} {shown(value)}; one of {', '.join(names)}."
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value)[:100].lower(), by_lower, n=1, cutoff=0.5)
    return ConfigError(f"{message} Did you mean {by_lower[near[0]]}?" if near else message)

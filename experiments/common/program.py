"""How every program ends: one line for an error, and an exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from common.startup import allow_collection
from mnet.errors import ConfigError, DataError
from mnet.latency.runtimes import ExportError

BAD_INPUT, INTERRUPTED = 2, 130


class Program(Protocol):
    """Takes the arguments of a call, by default this process's, and returns an exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def program(main: Callable[[Sequence[str]], int]) -> Program:
    """A program's `main`, whose errors become one line on stderr and an exit code.

    The code is 2 for bad input, 1 if a file cannot be read or written, 130 after Ctrl-C, and else what `main` returns.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        allow_collection()
        try:
            return main(sys.argv[1:] if arguments is None else arguments)
        except (ConfigError, DataError, ExportError) as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except OSError as error:
            print(f"error: {error}; finished work is kept", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped; finished work is kept: run the same command to continue", file=sys.stderr)
            return INTERRUPTED

    return run


def begin_training() -> None:
    """For programs that train: warnings are plain lines, and SIGINT and SIGTERM raise KeyboardInterrupt.

    A shell ignores the first in background jobs.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)

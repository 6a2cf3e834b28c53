"""How every program ends: one line for an error, and an exit code."""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO, cast

from common.startup import allow_collection
from mnet.errors import ConfigError, DataError, path_text
from mnet.latency.runtimes import ExportError

BAD_INPUT, INTERRUPTED = 2, 130


class Program(Protocol):
    """Takes command-line arguments, by default this process's, and returns an exit code."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def program(main: Callable[[Sequence[str]], int]) -> Program:
    """A program's `main`, whose errors become one line on stderr and an exit code.

    The code is 2 for bad input, 1 if a file cannot be read or written, 130 after Ctrl-C, otherwise what `main` returns.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        allow_collection()
        with patient_output():
            return run_to_end(sys.argv[1:] if arguments is None else arguments)

    def run_to_end(arguments: Sequence[str]) -> int:
        try:
            return main(arguments)
        except (ConfigError, DataError, ExportError) as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except OSError as error:
            print(f"error: {error}; finished work is kept", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "\nstopped; finished work and checkpoints are kept: run the same command to continue", file=sys.stderr
            )
            return INTERRUPTED

    return run


@contextmanager
def patient_output() -> Iterator[None]:
    """Keep printing from ending a program: what a terminal cannot show becomes `?`, and what nobody reads, as in a pipe
    to `head`, is dropped."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = (cast(TextIO, Patient(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters, which terminals obey, except tabs and line ends."""


class Patient:
    """A stream that keeps working after its reader has gone. Control characters are escaped: names and reasons come
    from files of others. Rich, whose colours are such characters, gets escaped texts and writes to the stream below."""

    def __init__(self, stream: TextIO, *, escaping: bool = True) -> None:
        self._stream, self._escaping = stream, escaping
        if escaping:
            self.rich_proxied_file = Patient(stream, escaping=False)

    def write(self, text: str) -> int:
        """As `TextIO.write`."""
        shown = CONTROLS.sub(lambda match: path_text(match[0]), text) if self._escaping else text
        with self._dropping():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """As `TextIO.flush`."""
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def begin_training() -> None:
    """For programs that train: warnings are plain lines, and SIGINT and SIGTERM raise KeyboardInterrupt.

    A shell makes its background jobs ignore SIGINT.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)

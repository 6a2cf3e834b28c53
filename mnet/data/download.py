"""Downloading and storing files: quietly, with timeouts, atomically."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mnet.errors import DataError
from mnet.files import write_atomic

NETWORK_TIMEOUT_S = 15
COMMAND_TIMEOUT_S = 600


@contextlib.contextmanager
def quiet_network() -> Iterator[None]:
    """Give torchvision's downloads a timeout, and hide their progress bars."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def run_program(command: list[str], folder: Path) -> None:
    """Run a command in `folder`, without a shell.

    Raises:
        DataError: The command failed; the message has the last line of its errors.
    """
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise DataError(f"{command[0]}: {lines[-1]}")


def store(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        DataError: The folder cannot be written.
    """
    try:
        write_atomic(path, lambda stream: stream.write(data))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}. Choose another data_dir.") from error

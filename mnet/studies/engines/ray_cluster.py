"""Connecting to an existing Ray cluster, with an error within seconds if there is none."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mnet.errors import ConfigError

CONNECT_SECONDS = 30.0

PROBE = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"


def import_ray() -> ModuleType:
    """Ray, with its usage reports turned off.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("the ray engine needs Ray: pip install 'mnet[ray]', or make EXTRAS=ray ...") from None
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster for the duration of a block, unless this process is connected already.

    Args:
        address: As `RayEngine.address`.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    check_address(address)
    terminate = signal.getsignal(signal.SIGTERM)
    ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler ends this process at once
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Connect once in another process: without a cluster Ray waits for minutes, and cannot be interrupted.

    Raises:
        ConfigError: No cluster answers at that address within `CONNECT_SECONDS`.
    """
    no_answer = f"no Ray cluster answers at {address}"
    if address == "auto":
        no_answer = "no Ray cluster answers on this machine; RAY_ADDRESS=host:port names another"
    else:
        parts = re.fullmatch(r"(?:ray://)?(?P<host>[^/\s]+):(?P<port>\d+)", address)
        if parts is None:
            raise ConfigError(f"a Ray address is host:port or ray://host:port, not {address!r}")
        try:
            socket.create_connection((parts["host"], int(parts["port"])), CONNECT_SECONDS / 3).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{no_answer}: {error}") from None
    try:
        subprocess.run(
            [sys.executable, "-c", PROBE, address],
            timeout=CONNECT_SECONDS * 2 / 3,
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{no_answer}: the port is open, but no Ray cluster responds on it") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["the probe failed without a message"])[-1]
        raise ConfigError(f"{no_answer}: {reason}") from None

"""What this machine has left: memory, shared memory, and the folder for what can be made again."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from mnet.files import private_folder

Storage = Literal["auto", "memory", "disk"]
"""Where decoded images are held; auto = in memory, where they fit."""

SHARED_MEMORY = Path("/dev/shm")  # in a container this can be as small as 64 MB  # noqa: S108


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container if that has a limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return free


def free_shared_memory() -> int | None:
    """Bytes that processes may still share through memory; None where the system sets no limit of its own."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where decoded images and hashes of files are kept: `MNET_CACHE`, or `mnet` in the user's cache folder."""
    if chosen := os.environ.get("MNET_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnet"


def scratch_folder() -> Path:
    """This user's folder on this machine for what one command needs, or can be made again.

    Raises:
        ConfigError: Another user has made it, or can enter it.
    """
    return private_folder(Path(tempfile.gettempdir()) / f"mnet-{os.geteuid()}")

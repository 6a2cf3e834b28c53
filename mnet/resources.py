"""This machine's free memory and shared memory, its cores, and the folders for caches and temporary files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from mnet.files import private_folder

Storage = Literal["auto", "memory", "disk"]
"""Where decoded images are held; auto = in memory if they fit."""

SHARED_MEMORY = Path("/dev/shm")  # in a container this can be as small as 64 MB  # noqa: S108


def free_memory() -> int:
    """Bytes that this process can still allocate: what the machine has left, or its container if that has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return free


def free_shared_memory() -> int | None:
    """Bytes of shared memory still free; None if the system has no separate limit for it."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """The folder of decoded images and file hashes: `MNET_CACHE`, or `mnet` in the user's cache folder."""
    if chosen := os.environ.get("MNET_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnet"


def scratch_folder() -> Path:
    """This user's folder on this machine for temporary files and for files that can be recreated.

    Raises:
        ConfigError: It is a link or belongs to another user, or others can write to it.
    """
    return private_folder(Path(tempfile.gettempdir()) / f"mnet-{os.geteuid()}")

"""How a number was measured: the device, the threads, the versions and the code's revision."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

import mnet


@cache
def provenance(device: torch.device, count: int = 1) -> dict[str, object]:
    """Columns of result tables: `device, threads, torch, mnet, revision`, for `count` devices that work together."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name if count == 1 else f"{count} x {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mnet": mnet.__version__,
        "revision": _revision(),
    }


def ask_driver(query: str) -> str:
    """nvidia-smi's answer for the first GPU, such as `580.159` for driver_version; empty if there is none."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer[0].strip() if answer else ""


def cpu_name() -> str:
    """The processor's name and its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _revision() -> str:
    """MNET_REVISION, for a copy of the code without its history, as in a container; else the git revision, with + if
    files have changed since; else empty."""
    if named := os.environ.get("MNET_REVISION"):
        return named
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

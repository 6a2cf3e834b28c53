"""The machine that a number was made on: what it is, how it is clocked, who else uses it, and which cores we keep."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
import torch

import mnet
from mnet.errors import ConfigError

CPUS = Path("/sys/devices/system/cpu")
MALLOC = ((-1, 2**31 - 1), (-2, 2**28), (-3, 2**25))
"""M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (32 MiB is the most) of glibc's malloc.h, in bytes."""


@cache
def provenance(device: torch.device, count: int = 1) -> dict[str, object]:
    """Where and by what a number was made, on how many such devices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name if count == 1 else f"{count} x {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mnet": mnet.__version__,
        "revision": revision(),
    }


def seed_all(seed: int) -> None:
    """`torch.manual_seed`, without the 0.3 ms that it takes to write down who called while no GPU is in use."""
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def cpu_name() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def revision() -> str:
    """The git revision of the code, with + if it was changed since; empty outside a checkout."""
    where = Path(__file__).parent
    try:
        ask = ["git", "-C", str(where), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def clock() -> dict[str, object]:
    """The frequency governor and the frequency in MHz; empty and nan where the system does not say."""
    governor, mhz = "", float("nan")
    with suppress(OSError):
        governor = (CPUS / "cpu0/cpufreq/scaling_governor").read_text().strip()
    with suppress(OSError, NotImplementedError, AttributeError):
        if (found := psutil.cpu_freq()) is not None:
            mhz = round(found.current)
    return {"governor": governor, "mhz": mhz}


def machine_facts() -> dict[str, object]:
    """`provenance` of a latency: of this processor, without threads, which every network has its own; with its clock
    and load."""
    known = provenance(torch.device("cpu"))
    code = {name: known[name] for name in ("torch", "mnet", "revision")}
    return {"device": known["device"], **clock(), "load": round(os.getloadavg()[0], 2), **code}


def usable_cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def check_threads(threads: int) -> None:
    """
    Raises:
        ConfigError: No threads, or more than cores.
    """
    cores = len(usable_cores())
    if not 1 <= threads <= cores:
        raise ConfigError(f"threads must be 1 to {cores}, the cores of this process, not {threads}")


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back to the system, where the C library is glibc.

    Every training step frees its activations and asks for the same ones again; returned in between, each page of them
    is faulted in and zeroed anew. On one thread of an AMD EPYC that is 5 to 22% of a step (28 px, batch 96), 17% of a
    detector's.

    Returns:
        Whether the C library took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # Windows, macOS, musl
        return False
    return all(mallopt(option, value) for option, value in MALLOC)


@contextmanager
def pinned(threads: int) -> Iterator[str]:
    """Keep this process's thread, and those it starts meanwhile, on the last `threads` cores; the first ones
    answer interrupts.

    Yields:
        Why that was refused; empty where it was not.

    Raises:
        ConfigError: As `check_threads`.
    """
    check_threads(threads)
    cores, refused, before = usable_cores(), "", torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        os.sched_setaffinity(0, cores[-threads:])
    except (OSError, AttributeError) as error:
        refused = f"not pinned to a core: {error}"
    try:
        yield refused
    finally:
        torch.set_num_threads(before)
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(0, cores)


class Others:
    """How much processor the other programs take, from construction on."""

    def __init__(self) -> None:
        self.before = self.used()

    @staticmethod
    def used() -> tuple[float, float, float]:
        """Seconds on the clock, seconds that all cores worked or were lent to other guests, and our own."""
        total, own = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = sum(getattr(total, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.perf_counter(), busy, own.user + own.system

    @property
    def cores(self) -> float:
        """The mean number of cores kept busy by others."""
        wall, busy, own = (now - before for now, before in zip(self.used(), self.before, strict=True))
        return max(0.0, busy - own) / wall if wall > 0 else 0.0


def busiest(seconds: float = 0.1) -> str:
    """The name of the other process that works most; empty where none does."""
    watched = [one for one in psutil.process_iter() if one.pid not in (os.getpid(), 0)]
    shares: dict[str, float] = {}
    for again in (False, True):
        for process in watched:
            with suppress(psutil.Error):
                shares[process.name()] = process.cpu_percent()
        if not again:
            time.sleep(seconds)
    name = max(shares, key=lambda one: shares[one], default="")
    return name if name and shares[name] > 5 else ""

"""The machine that latency is measured on: its clock, its load, its other programs, and pinning to cores."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from mnet.errors import ConfigError
from mnet.provenance import provenance

CPUS = Path("/sys/devices/system/cpu")
BUSY_PERCENT = 5
"""Usage, in percent of one core, above which `busiest_program` names a program."""


def machine_facts(device: str = "cpu") -> dict[str, object]:
    """The provenance of a latency: `device, governor, mhz, load, torch, mnet, revision`.

    `governor` and `mhz` are the CPU's, also for a GPU, whose work it launches; empty and nan if the system does not
    report them.

    Args:
        device: What ran: cpu, or cuda, for which `device` is the GPU's name.
    """
    made_on = provenance(torch.device(device))
    governor, mhz = "", float("nan")
    with suppress(OSError):
        governor = (CPUS / "cpu0/cpufreq/scaling_governor").read_text().strip()
    with suppress(OSError, NotImplementedError, AttributeError):
        if (frequency := psutil.cpu_freq()) is not None:
            mhz = round(frequency.current)
    load = round(os.getloadavg()[0], 2)
    versions = {name: made_on[name] for name in ("torch", "mnet", "revision")}
    return {"device": made_on["device"], "governor": governor, "mhz": mhz, "load": load, **versions}


def _usable_cores() -> list[int]:
    """The cores this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def check_threads(threads: int) -> None:
    """
    Raises:
        ConfigError: Fewer than one thread, or more than this process has cores.
    """
    cores = len(_usable_cores())
    if not 1 <= threads <= cores:
        raise ConfigError(f"threads must be 1 to {cores}, the cores of this process, not {threads}")


@contextmanager
def pinned(threads: int) -> Iterator[str]:
    """Keep this process, and the threads it starts, on the last `threads` cores; the first ones serve interrupts.

    Yields:
        Why the system refused; empty if it did not.

    Raises:
        ConfigError: As `check_threads`.
    """
    check_threads(threads)
    cores, refused, threads_before = _usable_cores(), "", torch.get_num_threads()
    torch.set_num_threads(threads)
    _cores_before.append(cores)
    try:
        os.sched_setaffinity(0, cores[-threads:])
    except (OSError, AttributeError) as error:
        refused = f"not pinned to a core: {error}"
    try:
        yield refused
    finally:
        _cores_before.pop()
        torch.set_num_threads(threads_before)
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(0, cores)


_cores_before: list[list[int]] = []
"""The cores of this process before each active `pinned`, outermost first."""


@contextmanager
def unpinned() -> Iterator[None]:
    """Inside `pinned`, temporarily give this process all its cores back, for work that is not timed. Processes started
    meanwhile keep them."""
    pinned_to = _usable_cores()
    with suppress(OSError, AttributeError):
        os.sched_setaffinity(0, _cores_before[0] if _cores_before else pinned_to)
    try:
        yield
    finally:
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(0, pinned_to)


class BackgroundLoad:
    """How many cores other programs keep busy, measured from construction on."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds: wall clock, all cores' work (and time stolen by other virtual machines), this process's work."""
        total, process = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = sum(getattr(total, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.perf_counter(), busy, process.user + process.system

    @property
    def cores(self) -> float:
        """The mean number of busy cores, without this process."""
        wall, busy, process = (now - start for now, start in zip(self._read(), self._start, strict=True))
        return max(0.0, busy - process) / wall if wall > 0 else 0.0


def busiest_program(seconds: float = 0.1) -> str:
    """The name of the other program that uses the processor most over `seconds`; empty if all are idle."""
    processes = [process for process in psutil.process_iter() if process.pid not in (os.getpid(), 0)]
    usage: dict[str, float] = {}
    for last in (False, True):  # the first reading of a process is always 0
        for process in processes:
            with suppress(psutil.Error):
                usage[process.name()] = process.cpu_percent()
        if not last:
            time.sleep(seconds)
    name = max(usage, key=lambda name: usage[name], default="")
    return name if name and usage[name] > BUSY_PERCENT else ""

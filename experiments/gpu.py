"""Measure what needs a GPU, in twelve minutes: `python experiments/gpu.py --budget=720`.

The parts run one after another, the most valuable first, each in its own process and within its share of the budget:
tests that need a GPU, the speed of a training step, seeds trained as one network, latencies, and undecided claims. Each
writes its table row by row; the same command continues where it stopped.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for a GPU must not start CUDA before forking
import torch
from common.options import Arguments, Parser, check_positive
from common.program import program

from mnet.errors import ConfigError, unknown
from mnet.provenance import ask_driver

SHARES: Mapping[str, float] = {"correct": 90, "steps": 200, "seeds": 120, "latency": 90, "answers": 220}
"""Part, in `benchmarks.gpu` -> its seconds of `BUDGET`, in running order. The last part gets what the others leave."""
BUDGET = float(sum(SHARES.values()))
REHEARSAL = 1.0
"""Seconds of each part in a rehearsal, which keeps rounds and steps to the fewest possible."""
PRELOADED = (
    "mnet.studies.engines.preload",
    "benchmarks.gpu.seeds",
    "benchmarks.gpu.latency",
    "benchmarks.gpu.answers",
    "pytest",
)
"""What the server that all parts are forked from imports, so that no part has to. The first imports most of it, and
exempts it from garbage collection."""
PATIENCE_S = 600.0
"""`GRACE_S` of a rehearsal, which may run on a busy machine."""
GRACE_S = 15.0
"""Seconds by which a part may exceed its share before it is ended."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    out: Path = Path("results/gpu")
    """Folder for the tables."""
    data_dir: Path = Path("data")
    """Folder of Fashion-MNIST."""
    budget: float = BUDGET
    """Seconds for everything except the first imports."""
    parts: str = ",".join(SHARES)
    """Parts to run, comma-separated."""
    rehearse: bool = False
    """Run every part on the CPU with tiny sizes, to check that it works."""

    def __post_init__(self) -> None:
        check_positive(self, "budget")
        for part in self.parts.split(","):
            if part not in SHARES:
                raise unknown("part", part, SHARES)


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all parts are done, 1 one died, was stopped or did not start, 2 bad input."""
    options = read_arguments(arguments).options
    if not options.rehearse and not torch.cuda.is_available():
        raise ConfigError("torch finds no NVIDIA GPU; --rehearse runs every part on the CPU")
    print(describe_device(), flush=True)
    import_once()
    outcomes = dict(run_parts(options))
    print("\n".join(f"{part}: {outcome}" for part, outcome in outcomes.items()))
    return 0 if all(outcome.startswith("done") for outcome in outcomes.values()) else 1


def run_part(part: str, seconds: float, options: Options) -> None:
    """Run one part, in this process."""
    from benchmarks.gpu.part import Settings

    os.setsid()  # a process group, which can be ended as a whole
    if not options.rehearse:
        faulthandler.dump_traceback_later(seconds + GRACE_S - 2, exit=False)  # shows where it hangs
    settings = Settings(
        out=options.out,
        data_dir=options.data_dir,
        device="cpu" if options.rehearse else "cuda",
        seconds=seconds,
        rehearse=options.rehearse,
    )
    code = 0
    try:
        importlib.import_module(f"benchmarks.gpu.{part}").run(settings)
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)  # its threads and processes would wait for work for ever


def run_parts(options: Options) -> Iterator[tuple[str, str]]:
    """Run the parts one after another, each in a process; yields each with how it ended."""
    started = time.monotonic()
    parts = options.parts.split(",")
    whole = sum(SHARES[part] for part in parts)
    for part in parts:
        left = options.budget - (time.monotonic() - started)
        share = left if part == parts[-1] else min(left, SHARES[part] * options.budget / whole)
        share = REHEARSAL if options.rehearse else share
        if share <= 0:
            yield part, "not started: the budget has run out"
            continue
        print(f"\n{part}, {share:.0f} s", flush=True)
        begun = time.monotonic()
        outcome = run_process(part, share, options)
        yield part, f"{outcome} in {time.monotonic() - begun:.0f} s"


def import_once() -> None:
    """Wait until the server that parts are forked from has imported `PRELOADED`, which does not count in the budget."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=int)
    process.start()
    process.join()


def run_process(part: str, seconds: float, options: Options) -> str:
    """Run a part in a new process, and end it if it takes too long; returns how it ended."""
    process = multiprocessing.get_context("forkserver").Process(target=run_part, args=(part, seconds, options))
    process.start()
    process.join(seconds + (PATIENCE_S if options.rehearse else GRACE_S))
    code = process.exitcode
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also ends what the part has started
    process.kill()
    process.join()
    if code is None:
        return "stopped: it took longer than its share"
    return "done" if code == 0 else f"died with exit code {code}"


def describe_device() -> str:
    """The device, its driver and the version of torch, in one line."""
    unnamed = "a GPU that nvidia-smi does not name" if torch.cuda.is_available() else "the CPU"
    return f"{ask_driver('name,driver_version') or unnamed}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())

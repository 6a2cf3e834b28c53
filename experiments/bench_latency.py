"""How reliable latency comparisons are: `python experiments/bench_latency.py` (17 minutes).

The same network is compared with itself many times: an interval of the ratio that excludes 1 is a false alarm. Then
every call of one of the two is slowed down by 2%: an interval above 1 has detected it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from common.options import Arguments, Parser, check_positive
from common.program import program
from common.terminal import print_rows
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.stats import binomtest

from mnet.files import write_csv
from mnet.latency.comparison import measure
from mnet.latency.machine import check_threads, machine_facts
from mnet.latency.prepare import PreparedVariant, prepare
from mnet.latency.runtimes import make_runtime
from mnet.studies.latency.subjects import Subject, build_module
from mnet.studies.runs.store import BENCH_LATENCY
from mnet.studies.trial import Trial

MAX_FALSE_ALARMS, MIN_DETECTED, MAX_SECONDS = 0.05, 0.95, 30.0
"""The goals: two rates, and seconds of a trial."""
COLOURS = {"met": "green", "NOT MET": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Command-line options."""

    runtime: str = "executorch"
    """One of mnet.latency.RUNTIMES."""
    model: str = "mobilenet_v3_small"
    """One of mnet.list_models(), at 224 px."""
    trials: int = 200
    """Comparisons of the network with itself."""
    slow_trials: int = 100
    """Comparisons with the slowdown."""
    slowdown: float = 0.02
    """The slowdown, as a share of the network's time."""
    half_width: float = 0.01
    """Stop when the half width of the ratio's interval is this small, as in studies."""
    budget: float = MAX_SECONDS
    """Seconds a trial may take."""
    threads: int = 1
    """Pinned cores that a network may use."""
    out: str = "results"
    """Folder for bench-latency.csv and exported programs."""

    def __post_init__(self) -> None:
        check_positive(self, "trials", "slow_trials", "slowdown", "half_width", "budget", "threads")
        check_threads(self.threads)


def read_arguments(arguments: Sequence[str]) -> Arguments[Options]:
    return Parser(Options, __doc__).read(arguments)


@program
def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured (even if a goal is missed), 2 bad input."""
    options = read_arguments(arguments).options
    torch.set_num_threads(1)
    subject = Subject(Trial(model=options.model, dataset="imagenet"))
    runtime = make_runtime(options.runtime, threads=options.threads, folder=Path(options.out) / "exported")
    ready = prepare(runtime, build_module(subject), subject.resolution)
    rows = list(_trials(ready, options))
    table = pd.DataFrame(rows).assign(runtime=options.runtime, model=options.model, threads=options.threads)
    path = Path(options.out) / BENCH_LATENCY
    facts = pd.DataFrame([{"version": ready.program.info.version, **machine_facts()}])
    write_csv(path, table.merge(facts, how="cross"))
    _show(table, options)
    print(f"  {path}")
    return 0


def _trials(ready: PreparedVariant, options: Options) -> Iterator[dict[str, object]]:
    """A row for each comparison."""
    pair = {"a": ready, "b": ready}
    first = measure(pair, "a", threads=options.threads, half_width=1.0, budget_s=1)
    assert first.paired is not None
    delay_s = options.slowdown * median(first.paired.times["a"])
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar:
        for planted, count in ((0.0, options.trials), (options.slowdown, options.slow_trials)):
            task = bar.add_task(f"{planted:.0%} slower" if planted else "the same twice", total=count)
            for i in range(count):
                start = time.perf_counter()
                measurement = measure(
                    pair,
                    "a",
                    threads=options.threads,
                    half_width=options.half_width,
                    budget_s=options.budget,
                    seed=i,
                    delays={"b": delay_s} if planted else None,
                )
                row = measurement.table.iloc[1]
                columns = ("ratio", "low", "high", "rounds", "stopped", "median_ms", "drift", "others")
                seconds = round(time.perf_counter() - start, 2)
                yield {"planted": planted, "trial": i, **{name: row[name] for name in columns}, "seconds": seconds}
                bar.advance(task)


def _show(table: pd.DataFrame, options: Options) -> None:
    """Print both rates with their exact 95% intervals and goals."""
    rendered = []
    for planted, rows in table.groupby("planted"):
        if planted:
            label, hits, goal = f"{float(str(planted)):.0%} slower, detected", rows["low"] > 1, f">= {MIN_DETECTED:.0%}"
        else:
            label, hits = "the same twice, called different", (rows["low"] > 1) | (rows["high"] < 1)
            goal = f"<= {MAX_FALSE_ALARMS:.0%}"
        rate = float(hits.mean())
        in_time = rows["seconds"].max() <= MAX_SECONDS + 5
        met = rate >= MIN_DETECTED and in_time if planted else rate <= MAX_FALSE_ALARMS
        test = binomtest(int(hits.sum()), len(hits)).proportion_ci()
        rendered.append(
            (
                f"{label}: {hits.sum()} of {len(hits)}",
                f"{rate:.1%}",
                f"[{test.low:.1%}, {test.high:.1%}]",
                goal,
                "met" if met else "NOT MET",
                f"{rows['ratio'].mean():.4f}",
                f"{rows['rounds'].median():.0f}",
                f"{rows['seconds'].median():.1f}, {rows['seconds'].max():.1f}",
            )
        )
    title = f"{options.model}, 224 px, {options.runtime}, {options.threads} thread(s)"
    columns = ("trials", "rate", "95% interval", "goal", "", "mean ratio", "rounds", "seconds, longest")
    print_rows(title, dict.fromkeys(columns, True), rendered, styles=COLOURS)
    if (others := float(table["others"].mean())) > 0.25:
        print(f"The machine was busy: other programs kept {others:.1f} cores busy.")


if __name__ == "__main__":
    sys.exit(main())

"""Process many files on all cores, in order, with a progress bar."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from mnet.resources import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 8
"""Items in progress or waiting for their turn, per thread."""
QUIET_S = 2.0
"""Seconds before progress is shown; shorter work shows nothing."""
LINES_S = 60.0
"""Seconds between progress lines without a terminal."""


def map_files(function: Callable[[Item], Result], items: Sequence[Item], title: str, done: int = 0) -> Iterator[Result]:
    """Like `map`, in as many threads as there are cores, with few results waiting.

    Args:
        function: should spend its time outside Python: reading, decoding, hashing.
        items: items left to process.
        title: title of the progress bar.
        done: number of items processed before.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(cores()) as pool, report_progress(title, done + len(items), done) as advance:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * cores():
                    yield waiting.popleft().result()
                    advance()
            while waiting:
                yield waiting.popleft().result()
                advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def report_progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """A function to call after each of `total` items, of which `done` were finished before."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console)
    task = bar.add_task(title, total=total, completed=done)
    start, count = time.monotonic(), done
    next_report = start + QUIET_S

    def advance() -> None:
        nonlocal next_report, count
        count += 1
        if (now := time.monotonic()) < next_report:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=count)
            next_report = now + 0.1
        else:
            minutes = (total - count) * (now - start) / (count - done) / 60
            print(f"{title}: {count:,} done, about {minutes:.0f} min left", file=sys.stderr, flush=True)
            next_report = now + LINES_S

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()

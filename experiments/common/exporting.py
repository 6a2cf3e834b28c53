"""Exports networks in parallel worker processes, before anything is timed."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.terminal import print_line
from mnet.latency.comparison import prepare
from mnet.latency.runtimes import ExportError, ExportingRuntime, Runtime, make_runtime
from mnet.studies.engines.local import default_workers
from mnet.studies.latency.subjects import Subject, build_module, identity

Key = tuple[str, int, Hashable]
"""A runtime's name, a batch, and the `identity` of a subject."""


def key_of(runtime: str, batch: int, subject: Subject) -> Key:
    return runtime, batch, identity(subject)


def export_all(
    subjects: Sequence[Subject], runtimes: Sequence[Runtime], batches: Sequence[int], workers: int | None
) -> Mapping[Key, str]:
    """Export every network for every runtime and batch, unless it is exported already.

    Args:
        subjects: The networks.
        runtimes: All with the same folder and threads.
        batches: Batch sizes.
        workers: Processes in parallel; None = one per core.

    Returns:
        The reason of each failed export.
    """
    todo = {
        key_of(runtime.name, batch, subject): subject
        for runtime in runtimes
        if isinstance(runtime, ExportingRuntime)
        for subject in subjects
        for batch in batches
    }
    failures: dict[Key, str] = {}
    if not todo:
        return failures
    workers, console = min(workers or default_workers(), len(todo)), Console()
    bar = Progress(TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool, bar:
        task, started = bar.add_task("", total=len(todo)), time.monotonic()
        jobs = {
            pool.submit(_export, *key[:2], subject, runtimes[0].threads, runtimes[0].folder): key
            for key, subject in todo.items()
        }
        for done, job in enumerate(as_completed(jobs), 1):
            if (reason := job.result()) is not None:
                failures[jobs[job]] = reason
            bar.update(task, completed=done)
            left_s = (len(todo) - done) * (time.monotonic() - started) / done
            if not console.is_terminal and done % 5 == 0:
                print_line(console, f"[{done}/{len(todo)}] exported; ETA {left_s:.0f} s")
    return failures


def _end_with_parent() -> None:
    """End this worker when the program ends, even if that is killed."""

    def watch() -> None:
        if (parent := parent_process()) is not None:
            wait([parent.sentinel])
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _export(runtime: str, batch: int, subject: Subject, threads: int, folder: Path) -> str | None:
    """Export in a worker, to leave no trace in the memory of the process that times. Returns why it failed, or None."""
    torch.set_num_threads(1)  # a fixed order of sums, so that the network is the same when it is timed
    try:
        prepare(
            make_runtime(runtime, threads=threads, folder=folder),
            build_module(subject),
            subject.resolution,
            batch=batch,
        )
    except ExportError as error:
        return str(error)
    finally:
        gc.collect()  # graphs are large and full of cycles
    return None

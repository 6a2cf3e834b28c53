"""Which seeds of a cell are trained as one network, see `mnet.studies.runs.packs`."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mnet.studies.engines.estimate import pack_seconds, seconds
from mnet.studies.runs.job import Job

GAIN = 0.03
"""Of the time, below which nothing is packed."""
MOST_ON_GPU = 16
"""Replicas that one GPU is given by itself."""


def plan_packs(jobs: Sequence[Job], workers: int, size: int | None = None, *, gpu: bool = False) -> list[Job]:
    """The jobs of whole studies, each told how many of its cell are trained together.

    A pack is sooner done than its runs one after another, but may leave other workers idle at the end.

    Args:
        jobs: Seed by seed; finished ones too, so that the plan is the same where a study goes on.
        workers: That work side by side.
        size: Seeds a pack at most; None = what ends first by the estimate, and on a GPU whole cells.
        gpu: Whether they train on one.
    """
    cells = by_cell(jobs)
    if size is None and gpu:
        size = MOST_ON_GPU
    if size is not None:
        return told(jobs, {name: size for name, cell in cells.items() if can_be_packed(cell[0])})
    plans = [told(jobs, {})]
    for most in range(2, max(map(len, cells.values()), default=0) + 1):
        plans.append(told(jobs, {name: most for name, cell in cells.items() if pays(cell[:most])}))
    ends = [makespan(plan, workers) for plan in plans]
    best = ends.index(min(ends))
    return plans[best] if ends[best] < (1 - GAIN) * ends[0] else plans[0]


def packs(jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
    """What is run together of jobs that were planned: each cell in equal parts, in the order of their first jobs."""
    found: list[tuple[Job, ...]] = []
    for cell in by_cell(jobs).values():
        parts = -(-len(cell) // cell[0].pack_size)
        found += [tuple(cell[i::parts]) for i in range(parts)]
    place = {job: i for i, job in enumerate(jobs)}
    return sorted(found, key=lambda pack: place[pack[0]])


def by_cell(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs that differ in their seed alone."""
    cells: dict[str, list[Job]] = {}
    for job in jobs:
        cells.setdefault(job.trial.run_id_of(0), []).append(job)
    return cells


def told(jobs: Sequence[Job], sizes: Mapping[str, int]) -> list[Job]:
    return [replace(job, pack_size=sizes.get(job.trial.run_id_of(0), 1)) for job in jobs]


def can_be_packed(job: Job) -> bool:
    """Whether its images are in memory, and its network is trained as it is."""
    from mnet.data.in_memory import InMemoryImages

    trial = job.trial
    return not trial.quantized and issubclass(trial.dataset_class(), InMemoryImages)


def pays(jobs: Sequence[Job]) -> bool:
    trials = [job.trial for job in jobs]
    if trials[0].precision != "fp32":  # on a CPU, arithmetic is then what takes the time
        return False
    return len(jobs) > 1 and can_be_packed(jobs[0]) and pack_seconds(trials) < (1 - GAIN) * sum(map(seconds, trials))


def makespan(jobs: Sequence[Job], workers: int) -> float:
    """Seconds until the last of the packs is done."""
    every = [[job.trial for job in pack] for pack in packs(jobs)]
    return hand_out([pack_seconds(own) if len(own) > 1 else seconds(own[0]) for own in every], workers)


def hand_out(durations: Iterable[float], workers: int) -> float:
    """When the last work ends, each begun in its turn as soon as a worker is free, as all engines do."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)

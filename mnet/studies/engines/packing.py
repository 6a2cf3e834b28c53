"""Which seeds of a cell train as one network, see `mnet.studies.runs.packs`."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mnet.studies.engines.estimate import pack_seconds, trial_seconds
from mnet.studies.runs.job import Job

MIN_GAIN = 0.03
"""Share of the time that packing must save."""
MAX_ON_GPU = 32
"""Replicas that one GPU trains unless a size is given. On an H200, V3-Small at 32 px trains 1.27 times as many images a
second with 32 replicas as with 16, and 1.46 times as many with 16 as with 8 (results/published/gpu/seeds.csv)."""


def plan_packs(jobs: Sequence[Job], workers: int, size: int | None = None, *, gpu: bool = False) -> list[Job]:
    """The jobs with their `pack_size`.

    A pack takes less time than its runs one after another, but may leave other workers idle at the end.

    Args:
        jobs: All jobs of the studies, seed by seed; finished ones too, so that a resumed study has the same plan.
        workers: How many jobs run at the same time.
        size: Largest number of seeds in a pack; None = the one estimated to end first, on a GPU `MAX_ON_GPU`.
        gpu: Whether they train on a GPU.
    """
    cells = _by_cell(jobs)
    if size is None and gpu:
        size = MAX_ON_GPU
    if size is not None:
        return _with_pack_sizes(jobs, {name: size for name, cell in cells.items() if _can_pack(cell[0])})
    plans = [_with_pack_sizes(jobs, {})]
    for largest in range(2, max(map(len, cells.values()), default=0) + 1):
        sizes = {name: largest for name, cell in cells.items() if _saves_time(cell[:largest])}
        plans.append(_with_pack_sizes(jobs, sizes))
    ends = [makespan(plan, workers) for plan in plans]
    best = ends.index(min(ends))
    return plans[best] if ends[best] < (1 - MIN_GAIN) * ends[0] else plans[0]


def packs(jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
    """The jobs that train together: each cell in nearly equal parts, in the order of their first jobs."""
    parts: list[tuple[Job, ...]] = []
    for cell in _by_cell(jobs).values():
        count = -(-len(cell) // cell[0].pack_size)
        parts += [tuple(cell[i::count]) for i in range(count)]
    position = {job: i for i, job in enumerate(jobs)}
    return sorted(parts, key=lambda part: position[part[0]])


def _by_cell(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """The jobs of each cell, which differ only in their seed, by the run id of seed 0."""
    cells: dict[str, list[Job]] = {}
    for job in jobs:
        cells.setdefault(job.trial.run_id_of(0), []).append(job)
    return cells


def _with_pack_sizes(jobs: Sequence[Job], sizes: Mapping[str, int]) -> list[Job]:
    return [replace(job, pack_size=sizes.get(job.trial.run_id_of(0), 1)) for job in jobs]


def _can_pack(job: Job) -> bool:
    """Whether the job can be part of a pack; int8 jobs cannot."""
    return not job.trial.quantized


def _saves_time(jobs: Sequence[Job]) -> bool:
    trials = [job.trial for job in jobs]
    if trials[0].precision != "fp32":  # on a CPU, arithmetic then takes most of the time
        return False
    alone = sum(map(trial_seconds, trials))
    return len(jobs) > 1 and _can_pack(jobs[0]) and pack_seconds(trials) < (1 - MIN_GAIN) * alone


def makespan(jobs: Sequence[Job], workers: int) -> float:
    """Estimated seconds until the last pack ends."""
    trials = [[job.trial for job in pack] for pack in packs(jobs)]
    return hand_out([pack_seconds(pack) if len(pack) > 1 else trial_seconds(pack[0]) for pack in trials], workers)


def hand_out(durations: Iterable[float], workers: int) -> float:
    """When the last task ends if each begins, in order, as soon as a worker is free, as in all engines."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)

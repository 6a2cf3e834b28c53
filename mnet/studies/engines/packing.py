"""Which seeds of a cell are trained as one network."""

from __future__ import annotations

from collections.abc import Sequence

from mnet.studies.engines import Job


def alone(jobs: Sequence[Job]) -> list[tuple[Job, ...]]:
    """Each by itself."""
    return [(job,) for job in jobs]


def packs(jobs: Sequence[Job], workers: int, size: int | None) -> list[tuple[Job, ...]]:
    """Jobs by cell, in the order of each cell's first, in packs of at most `size`.

    Args:
        jobs: Seed by seed.
        workers: Packs that run side by side.
        size: None = whichever ends first.
    """
    from mnet.studies.packs import can_be_packed

    cells: dict[str, list[Job]] = {}
    for job in jobs:
        key = job.trial.run_id_of(0) if can_be_packed(job) else job.run_id
        cells.setdefault(key, []).append(job)
    size = size or 1
    return [tuple(cell[i : i + size]) for cell in cells.values() for i in range(0, len(cell), size)]

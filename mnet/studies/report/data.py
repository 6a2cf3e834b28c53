"""The tables of a study that go into a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnet.studies.results.archive import find_table, of_latest_machine, places, usable_table
from mnet.studies.runs.images import accuracy_to_beat
from mnet.studies.runs.store import (
    BLOCKS,
    CANDIDATES,
    EFFECTS,
    FRONTIER,
    INSIDE,
    LATENCY,
    PREDICTIONS,
    PUBLISHED,
    RUNS,
    SUMMARY,
    TRACE,
    blocks_file,
)


@dataclass(frozen=True)
class StudyData:
    """The tables of a study; None for a table that does not exist."""

    name: str
    published: tuple[str, ...]
    """The tables that were published with the project, not measured in this folder."""
    runs: pd.DataFrame | None
    summary: pd.DataFrame | None
    effects: pd.DataFrame | None
    latency: pd.DataFrame | None
    frontier: pd.DataFrame | None
    trace: pd.DataFrame | None
    """Steps of NetAdapt."""
    candidates: pd.DataFrame | None
    """Candidates of a search over blocks."""
    inside: pd.DataFrame | None
    blocks: Mapping[str, pd.DataFrame]
    """Runtime -> the latency of each block of the baseline."""
    examples: Path | None
    """The image of predictions on test images."""
    to_beat: str
    """The accuracy to beat on a user's own images, as a sentence; empty for published ones."""

    def sources(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables that record hardware, versions and dates of measurement, by name."""
        for name in ("runs", "latency", "frontier"):
            if (frame := getattr(self, name)) is not None:
                yield name, frame


def read_study(root: Path, name: str) -> StudyData | None:
    """The tables of a study, measured in the results folder `root` or published below it; None if it has none."""
    measured, further = (RUNS, SUMMARY, EFFECTS, LATENCY, FRONTIER), (TRACE, CANDIDATES, INSIDE)
    found = {file: usable_table(*places(root, name, file)) for file in (*measured, *further)}
    if not any(found[file] for file in measured):
        return None
    tables = {file: None if one is None else one[1] for file, one in found.items()}
    folders = (root / PUBLISHED / name, root / name)  # if both have a file, the measured one is read last and wins
    files = [path for folder in folders for path in sorted(folder.glob(blocks_file()))]
    return StudyData(
        name,
        published=tuple(file for file, one in found.items() if one is not None and one[0].parent != root / name),
        runs=tables[RUNS],
        summary=tables[SUMMARY],
        effects=tables[EFFECTS],
        latency=None if (timed := tables[LATENCY]) is None else of_latest_machine(timed),
        frontier=tables[FRONTIER],
        trace=tables[TRACE],
        candidates=tables[CANDIDATES],
        inside=tables[INSIDE],
        blocks={path.stem.removeprefix(BLOCKS): one[1] for path in files if (one := usable_table(path))},
        examples=find_table(root, name, PREDICTIONS),
        to_beat=_accuracy_to_beat(root, name, tables[RUNS]),
    )


def _accuracy_to_beat(root: Path, name: str, runs: pd.DataFrame | None) -> str:
    """`accuracy_to_beat` of the classification runs; empty without any."""
    if runs is None or "top1" not in runs:
        return ""
    return accuracy_to_beat(root, name, runs["run_id"][runs["top1"].notna()])

"""The plan of a study, `plan.yaml`: after how many seeds it is analysed, written before its first run.

Intervals hold over all looks of the plan together, so the plan is part of every result: looks can be added but not
removed, and adding them later is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnet.files import write_yaml
from mnet.studies.runs.store import PLAN, RESULT, runs_with
from mnet.studies.sources import read_source
from mnet.studies.study import Study

LOOKS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Numbers of seeds at which a study that runs until it is decided is analysed."""


@dataclass(frozen=True)
class Plan:
    """When a study is analysed, and what it compares."""

    looks: tuple[int, ...]
    margin: float
    """Smallest difference of interest, in points."""
    cells: Mapping[str, str]
    """Name of a cell -> the run id of its seed 0."""


def read_plans(folder: Path) -> tuple[Plan, ...]:
    """The plans in the folder of a study: one for each set of networks and images that was trained there.

    Raises:
        ConfigError: The file holds something else.
    """
    path = folder / PLAN
    if not path.is_file():
        return ()
    source = read_source(path)
    content: Any = source.content
    try:
        plans = tuple(map(_parse, content if isinstance(content, list) else [content]))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise source.error((), "expected a plan: a mapping with looks, margin and cells") from None
    for plan in plans:
        if not plan.looks or list(plan.looks) != sorted(set(plan.looks)):
            raise source.error(("looks",), f"looks must ascend, such as 3, 5, 8, not {list(plan.looks)}")
    return plans


def _parse(content: Any) -> Plan:
    cells = {str(name): str(run) for name, run in content["cells"].items()}
    return Plan(tuple(map(int, content["looks"])), float(content["margin"]), cells)


def looks_of(study: Study, root: Path) -> tuple[int, ...] | None:
    """The looks of a study's plan; None if no plan has all of its cells."""
    cells = _cells(study).items()
    return next((plan.looks for plan in read_plans(root / study.name) if plan.cells.items() >= cells), None)


def make_plan(study: Study, root: Path, looks: Sequence[int], margin: float) -> Iterator[str]:
    """Write the plan of a study before its first run, or add looks to its existing plan.

    Args:
        study: The study.
        root: The results folder.
        looks: Numbers of seeds at which to analyse it. Those up to the last planned look add nothing.
        margin: Smallest difference of interest, in points.

    Yields:
        A sentence for each change to an existing plan, and one if runs have finished without a plan.

    Raises:
        ConfigError: The existing file is not a plan.
    """
    folder, cells = root / study.name, _cells(study)
    plans = list(read_plans(folder))
    place = next((i for i, plan in enumerate(plans) if plan.cells.items() & cells.items()), len(plans))
    if place == len(plans):
        for plan in plans:
            others = ", ".join(plan.cells)
            yield f"{study.name}: {PLAN} has a plan for other networks or images ({others}); this is a new plan"
        unplanned = _finished_seeds(study, root)
        if 2 <= unplanned < looks[-1] and unplanned not in looks:
            yield f"{study.name}: {unplanned} seeds had finished without a plan; that is one more look at it"
            looks = sorted({unplanned, *looks})
        plans.append(Plan(tuple(looks), margin, cells))
    else:
        before = plans[place]
        added = [look for look in looks if look > before.looks[-1]]
        plans[place] = Plan((*before.looks, *added), margin, {**before.cells, **cells})
        if added:
            yield (
                f"{study.name}: analysed after {_join(before.looks)} seeds before, now also after {_join(added)}; "
                "intervals hold over all looks, which makes them wider"
            )
        if margin != before.margin:
            yield f"{study.name}: the margin was {before.margin:g} points, and is {margin:g} now"
        if plans[place] == before:
            return
    content = [{"looks": list(plan.looks), "margin": plan.margin, "cells": dict(plan.cells)} for plan in plans]
    write_yaml(folder / PLAN, content if len(content) > 1 else content[0])


def _finished_seeds(study: Study, root: Path) -> int:
    """The number of seeds that at least two cells have finished in the folder of the study."""
    finished = {folder.name for folder in runs_with(RESULT, root / study.name)}
    counts = sorted(sum(trial.run_id in finished for trial in cell.trials) for cell in study.cells)
    return counts[-2] if len(counts) > 1 else 0


def _cells(study: Study) -> dict[str, str]:
    return {cell.name: cell.trials[0].run_id_of(0) for cell in study.cells}


def _join(looks: Sequence[int]) -> str:
    return ", ".join(map(str, looks))

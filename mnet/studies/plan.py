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
from mnet.studies.runs.store import PLAN
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


def read_plan(folder: Path) -> Plan | None:
    """The plan in the folder of a study; None if there is none.

    Raises:
        ConfigError: The file is not a plan.
    """
    path = folder / PLAN
    if not path.is_file():
        return None
    source = read_source(path)
    content: Any = source.content
    try:
        looks, cells = (
            tuple(map(int, content["looks"])),
            {str(name): str(run) for name, run in content["cells"].items()},
        )
        plan = Plan(looks, float(content["margin"]), cells)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise source.error((), "expected a plan: a mapping with looks, margin and cells") from None
    if not looks or list(looks) != sorted(set(looks)):
        raise source.error(("looks",), f"looks must ascend, such as 3, 5, 8, not {list(looks)}")
    return plan


def looks_of(study: Study, root: Path) -> tuple[int, ...] | None:
    """The looks of a study's plan; None if it has no plan, or one without some of its cells."""
    plan = read_plan(root / study.name)
    return plan.looks if plan is not None and plan.cells.items() >= _cells(study).items() else None


def make_plan(study: Study, root: Path, looks: Sequence[int], margin: float) -> Iterator[str]:
    """Write the plan of a study before its first run, or add looks to its existing plan.

    Args:
        study: The study.
        root: The results folder.
        looks: Numbers of seeds at which to analyse it. Those up to the last planned look add nothing.
        margin: Smallest difference of interest, in points.

    Yields:
        A sentence for each change to an existing plan.

    Raises:
        ConfigError: The existing file is not a plan.
    """
    folder, cells = root / study.name, _cells(study)
    before = read_plan(folder)
    if before is not None and not (before.cells.items() & cells.items()):
        yield f"{study.name}: {PLAN} was for other networks or images ({', '.join(before.cells)}); this is a new plan"
        before = None
    if before is None:
        plan = Plan(tuple(looks), margin, cells)
    else:
        added = [look for look in looks if look > before.looks[-1]]
        plan = Plan((*before.looks, *added), margin, {**before.cells, **cells})
        if added:
            yield (
                f"{study.name}: analysed after {_join(before.looks)} seeds before, now also after {_join(added)}; "
                "intervals hold over all looks, which makes them wider"
            )
        if margin != before.margin:
            yield f"{study.name}: the margin was {before.margin:g} points, and is {margin:g} now"
        if plan == before:
            return
    write_yaml(folder / PLAN, {"looks": list(plan.looks), "margin": plan.margin, "cells": dict(plan.cells)})


def _cells(study: Study) -> dict[str, str]:
    return {cell.name: cell.trials[0].run_id_of(0) for cell in study.cells}


def _join(looks: Sequence[int]) -> str:
    return ", ".join(map(str, looks))

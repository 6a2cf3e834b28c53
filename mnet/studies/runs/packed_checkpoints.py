"""The checkpoint of a pack as one checkpoint a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mnet.files import TEMPORARY, remove_temporary
from mnet.models.replicas import join, split
from mnet.studies.runs.checkpoints import WholeCheckpoints, usable_checkpoint
from mnet.studies.runs.job import Job
from mnet.studies.runs.store import RESUME

NEXT = f"{TEMPORARY}{RESUME}"
"""A checkpoint that is whole, but not all of its pack's are."""
STACKED = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
"""Of a checkpoint, what has every replica's tensors; `averaging_state` is of `WarmEMA`."""


def at_one_step(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose checkpoints, or whose lack of one, are at one step."""
    roll_forward([job.folder for job in jobs])
    found: dict[int, list[Job]] = {}
    for job in jobs:
        remove_temporary(job.folder)
        usable_checkpoint(job.folder)  # removes one that is not
        found.setdefault(step_of(job.folder / RESUME), []).append(job)
    return list(found.values())


def roll_forward(folders: Sequence[Path]) -> None:
    """Where a pack was killed while its checkpoints took the place of the last ones, let the others follow."""
    if not any((folder / NEXT).exists() for folder in folders):
        return
    steps = [{step_of(folder / name): name for name in (NEXT, RESUME)} for folder in folders]
    latest = max(set.intersection(*map(set, steps)), default=0)
    for folder, names in zip(folders, steps, strict=True):
        if latest and names[latest] == NEXT:
            os.replace(folder / NEXT, folder / RESUME)


def step_of(checkpoint: Path) -> int:
    """0 = there is none."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except Exception:  # whatever torch raises for half a file
        return 0


class PackedCheckpoints(TorchCheckpointIO):
    """The checkpoint of a pack as one a run, such as that run alone would write."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders = folders
        self.file = WholeCheckpoints()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        count = len(self.folders)
        parts = {name: split(checkpoint[name], count) for name in STACKED if name in checkpoint}
        for i, folder in enumerate(self.folders):
            own = {name: part[i] for name, part in parts.items()}
            callbacks = {name: member_state(state, i, count) for name, state in checkpoint["callbacks"].items()}
            self.file.save_checkpoint({**checkpoint, **own, "callbacks": callbacks}, folder / NEXT)
        for folder in self.folders:  # when all are written: see `roll_forward`
            if (folder / NEXT).exists():
                os.replace(folder / NEXT, folder / RESUME)

    def load_checkpoint(self, path: Any, *_: object, **__: object) -> dict[str, Any]:
        every = [torch.load(folder / RESUME, map_location="cpu", weights_only=True) for folder in self.folders]
        stacked = {name: join([one[name] for one in every]) for name in STACKED if name in every[0]}
        callbacks = {name: common_state([one["callbacks"][name] for one in every]) for name in every[0]["callbacks"]}
        return {**every[0], **stacked, "callbacks": callbacks}


def member_state(state: Mapping[str, Any], member: int, count: int) -> dict[str, Any]:
    """Of a callback: the rows of a member (`ResumeCheckpoint`), its share of the seconds (`ProgressMonitor`)."""
    own = dict(state)
    if "rows" in own:
        own["rows"] = own["rows"][member]
    if "seconds" in own:
        own["seconds"] /= count
    return own


def common_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse of `member_state`."""
    common = dict(states[0])
    if "rows" in common:
        common["rows"] = [state["rows"] for state in states]
    if "seconds" in common:
        common["seconds"] = sum(state["seconds"] for state in states)
    return common

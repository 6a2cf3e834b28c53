"""The checkpoint of a pack, written as one checkpoint per run.

All checkpoints of a pack are first written next to the previous ones and then renamed. If a pack is killed between two
renames, the remaining ones follow when it is resumed, so that its runs are at the same step.
"""

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
"""A complete checkpoint that is renamed once those of the other runs are complete."""
STACKED = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
"""Parts of a checkpoint that stack the tensors of all replicas; `averaging_state` is that of `WarmEMA`."""


def group_by_step(jobs: Sequence[Job]) -> list[list[Job]]:
    """Packs of jobs whose checkpoints are at the same step; a job without a usable one is at step 0."""
    _complete_renames([job.folder for job in jobs])
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        remove_temporary(job.folder)
        usable_checkpoint(job.folder, job.run_id)  # deletes it if unusable
        groups.setdefault(step_of(job.folder / RESUME), []).append(job)
    return list(groups.values())


def step_of(checkpoint: Path) -> int:
    """The training step of a checkpoint; 0 if there is none."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except Exception:  # whatever torch raises for a truncated file
        return 0


class PackedCheckpoints(TorchCheckpointIO):
    """Writes the checkpoint that each run of a pack would write alone, and stacks them when loading."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders = folders
        self.file = WholeCheckpoints()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: object = None) -> None:
        count = len(self.folders)
        parts = {name: split(checkpoint[name], count) for name in STACKED if name in checkpoint}
        for i, folder in enumerate(self.folders):
            member = {name: part[i] for name, part in parts.items()}
            callbacks = {name: _member_state(state, i, count) for name, state in checkpoint["callbacks"].items()}
            mnet = {**checkpoint["mnet"], "run_ids": [checkpoint["mnet"]["run_ids"][i]]}
            self.file.save_checkpoint({**checkpoint, **member, "callbacks": callbacks, "mnet": mnet}, folder / NEXT)
        for folder in self.folders:
            if (folder / NEXT).exists():
                os.replace(folder / NEXT, folder / RESUME)

    def load_checkpoint(self, path: Any, *_: object, **__: object) -> dict[str, Any]:
        members = [torch.load(folder / RESUME, map_location="cpu", weights_only=True) for folder in self.folders]
        first = members[0]
        stacked = {name: join([member[name] for member in members]) for name in STACKED if name in first}
        states = [member["callbacks"] for member in members]
        callbacks = {name: _pack_state([state[name] for state in states]) for name in states[0]}
        return {**first, **stacked, "callbacks": callbacks}


def _complete_renames(folders: Sequence[Path]) -> None:
    """Rename the checkpoints that a pack had written but not yet renamed when it was killed."""
    if not any((folder / NEXT).exists() for folder in folders):
        return
    names_by_step = [{step_of(folder / name): name for name in (NEXT, RESUME)} for folder in folders]
    latest = max(set.intersection(*map(set, names_by_step)), default=0)
    for folder, names in zip(folders, names_by_step, strict=True):
        if latest and names[latest] == NEXT:
            os.replace(folder / NEXT, folder / RESUME)


def _member_state(state: Mapping[str, Any], member: int, count: int) -> dict[str, Any]:
    """A callback's state for one member: its rows (`ResumeCheckpoint`), its share of the time (`ProgressMonitor`)."""
    member_state = dict(state)
    if "rows" in state:
        member_state["rows"] = state["rows"][member]
    if "seconds" in state:
        member_state["seconds"] = state["seconds"] / count
    return member_state


def _pack_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse of `_member_state`."""
    pack_state = dict(states[0])
    if "rows" in pack_state:
        pack_state["rows"] = [state["rows"] for state in states]
    if "seconds" in pack_state:
        pack_state["seconds"] = sum(state["seconds"] for state in states)
    return pack_state

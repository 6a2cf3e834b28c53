"""Shared by the parts: their settings, and a table that grows row by row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

import mnet
from mnet.files import write_csv
from mnet.provenance import provenance

SAMPLE_SECONDS, ROUNDS_SECONDS = 0.05, 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a part."""

    out: Path
    """Folder for its tables."""
    data_dir: Path
    """Folder of Fashion-MNIST."""
    device: str
    """cuda, or cpu in a rehearsal."""
    seconds: float
    """The part's share of the budget."""
    rehearse: bool = False
    """Whether to use tiny sizes, only to check that the code runs."""
    started: float = field(default_factory=time.monotonic)

    @property
    def sample_s(self) -> float:
        """Approximate seconds of a sample of a training loop; 0 in a rehearsal, where a sample is one step."""
        return 0.0 if self.rehearse else SAMPLE_SECONDS

    @property
    def rounds_s(self) -> float:
        """Minimum seconds of rounds; 0 in a rehearsal, which runs only the rounds that an interval needs."""
        return 0.0 if self.rehearse else ROUNDS_SECONDS

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.started + self.seconds - time.monotonic()

    def network(self, model: str, num_classes: int, in_channels: int, width: float | None = None) -> mnet.Network:
        """A network of the family, cut to two blocks in a rehearsal."""
        network = mnet.describe(model, num_classes=num_classes, in_channels=in_channels, width=width)
        return replace(network, blocks=network.blocks[:2]) if self.rehearse else network


class GrowingTable:
    """A CSV file that is rewritten after every row, so that a part that dies keeps what it measured. Rows measured by
    the same code on the same device with the same torch are not measured again."""

    def __init__(self, path: Path, keys: Sequence[str], device: str) -> None:
        """
        Args:
            path: The file.
            keys: Columns that identify a row.
            device: The device that is measured.
        """
        self.path, self.keys = path, tuple(keys)
        self.made_by = {name: str(value) for name, value in provenance(torch.device(device)).items()}
        self.rows: list[dict[str, str]] = []
        if path.exists():
            self.rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")  # type: ignore[assignment]

    def __contains__(self, key: tuple[object, ...]) -> bool:
        """Whether a row has these values in the key columns and was made by this code on this device."""
        return any(
            tuple(row[name] for name in self.keys) == tuple(map(str, key))
            and all(row.get(name) == value for name, value in self.made_by.items())
            for row in self.rows
        )

    def add(self, row: dict[str, object]) -> None:
        """Add a row, replacing one with the same key (from other code or another device), and write the file."""
        new = {**{name: str(value) for name, value in row.items()}, **self.made_by}
        key = tuple(new[name] for name in self.keys)
        self.rows = [old for old in self.rows if tuple(old.get(name) for name in self.keys) != key]
        self.rows.append(new)
        write_csv(self.path, pd.DataFrame(self.rows))

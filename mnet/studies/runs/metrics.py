"""The metrics of a run as a CSV file."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mnet.files import write_atomic
from mnet.studies.runs.store import METRICS

log = logging.getLogger(__name__)


class MetricsLogger(Logger):
    """A logger of metrics only."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: object, **__: object) -> None:
        """Log nothing: config.yaml has the hyperparameters."""


class MetricsFile(MetricsLogger):
    """Every logged metric, one row per step and epoch, as CSV. Also complete after a resume, see `ResumeCheckpoint`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = dict(metrics)
        key = {"epoch": int(values.pop("epoch", 0)), "step": int(step or 0)}
        self.rows.append({**key, **{name: float(value) for name, value in values.items()}})

    def last(self, *names: str) -> list[float]:
        """The latest value logged under each name; nan if there is none."""
        return [next((row[name] for row in reversed(self.rows) if name in row), math.nan) for name in names]

    @rank_zero_only
    def save(self) -> None:
        names = list(dict.fromkeys(("epoch", "step", *(name for row in self.rows for name in row))))
        text = io.StringIO()
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        try:
            write_atomic(self.path, lambda stream: stream.write(text.getvalue().encode()))
        except OSError as error:  # tried again at the next row, and once more before the result
            log.warning("cannot write %s now: %s", self.path, error)


class MetricsFiles(MetricsLogger):
    """One `MetricsFile` per member of a `Pack`, with what that member would have logged alone."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.files = [MetricsFile(folder) for folder in folders]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        by_member: dict[int, dict[str, float]] = {}
        for name, value in metrics.items():  # such as 0/val/loss; epoch is that of all members
            member, slash, rest = name.partition("/")
            if slash:
                by_member.setdefault(int(member), {"epoch": metrics.get("epoch", 0)})[rest] = value
        for member_number, member_metrics in by_member.items():
            self.files[member_number].log_metrics(member_metrics, step)

    @property
    def rows(self) -> list[list[dict[str, float]]]:
        return [file.rows for file in self.files]

    @rows.setter
    def rows(self, rows: Sequence[Sequence[dict[str, float]]]) -> None:
        for file, file_rows in zip(self.files, rows, strict=True):
            file.rows = list(file_rows)

    def save(self) -> None:
        for file in self.files:
            file.save()

"""A study file -> cells -> runs -> tables. Read trial, options, runs, engines, study, plan, results, claims, report in
that order; each imports only those before it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mnet.studies.study import Cell, Study, load_study
from mnet.studies.trial import Trial

if TYPE_CHECKING:
    from mnet.studies.results.archive import study_table
    from mnet.studies.results.decide import decide
    from mnet.studies.results.loading import load
    from mnet.studies.results.statistics import paired_deltas

__all__ = ["Cell", "Study", "Trial", "decide", "load", "load_study", "paired_deltas", "study_table"]

_RESULTS = {"load": "loading", "study_table": "archive", "decide": "decide", "paired_deltas": "statistics"}


def __getattr__(name: str) -> object:
    """Import the results modules on first use: training needs neither pandas nor plots."""
    if name not in _RESULTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mnet.studies.results.{_RESULTS[name]}"), name)

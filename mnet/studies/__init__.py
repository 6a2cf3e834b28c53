"""A study file -> cells -> runs -> tables: see `sweep`, `run`, `local`, `results`, `statistics`, in that order."""

from mnet.studies.results.archive import load, study_table
from mnet.studies.results.statistics import paired_deltas
from mnet.studies.study import Cell, Study, load_study
from mnet.studies.trial import Trial

__all__ = ["Cell", "Study", "Trial", "load", "load_study", "paired_deltas", "study_table"]

"""The effect of one option within every variant of a study: its values compared, all else equal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from mnet.errors import text, unknown
from mnet.studies.options import cell_name
from mnet.studies.results.decide import differences, judge
from mnet.studies.results.statistics import table_by_seed
from mnet.studies.study import Study

ALL = "all"
"""Name of the row with the mean over the variants."""

PAIR = ("variant", "value", "against", "n", "delta", "low", "high", "p", "verdict")
BEYOND = {"delta": "beyond", "low": "beyond_low", "high": "beyond_high", "p": "beyond_p"}
COLUMNS = ("study", *PAIR, *BEYOND.values())


class Column(NamedTuple):
    """A cell of a study, as a variant and a value of the option."""

    variant: str
    value: str


def effects_table(
    study: Study, runs: pd.DataFrame, option: str, margin: float | None = None, looks: Sequence[int] | None = None
) -> pd.DataFrame:
    """Each value of an option minus each earlier one, within each variant (the other options).

    Args:
        study: A study that varies `option`.
        runs: From `tables.runs_table`.
        option: One of `study.varied`.
        margin: As for `decide`.
        looks: As for `decide`.

    Returns:
        One row per variant and pair of values, and one named `ALL`: the mean over the variants. `delta` is in points of
        the headline metric; its interval holds over all variants of a pair, see `decide`. `beyond` is the delta minus
        that of the first variant, with an interval that holds over the other variants. `n` counts seeds with both runs.

    Raises:
        ConfigError: The study does not vary `option`.
    """
    compared = compare_values(study, runs, option, margin, looks)
    return compared.assign(study=study.name).reindex(columns=list(COLUMNS))


def compare_values(
    study: Study, runs: pd.DataFrame, option: str, margin: float | None = None, looks: Sequence[int] | None = None
) -> pd.DataFrame:
    """The rows of `effects_table`, with the columns of `decide.JUDGED` that it leaves out."""
    by_cell = table_by_seed(runs, str(runs["cell"].iloc[0]), study.task.headline.name)
    places = columns_of(study, option)
    columns = {place: by_cell[cell] for cell, place in places.items() if cell in by_cell}
    values = list(dict.fromkeys(place.value for place in places.values()))
    pairs = [(value, against) for against, value in itertools.combinations(values, 2)]
    return pd.concat([_compare(columns, *pair, margin, looks) for pair in pairs], ignore_index=True)


def columns_of(study: Study, option: str) -> dict[str, Column]:
    """Name of a cell -> its variant and its value of the option.

    Raises:
        ConfigError: The study does not vary `option`.
    """
    if option not in study.varied:
        raise unknown("option that the study varies", option, study.varied)
    columns = {}
    for cell in study.cells:
        rest = {name: value for name, value in cell.options.items() if name != option}
        columns[cell.name] = Column(cell_name(rest) if rest else cell.trials[0].model, text(cell.options[option]))
    return columns


def _compare(
    columns: dict[Column, pd.Series], value: str, against: str, margin: float | None, looks: Sequence[int] | None
) -> pd.DataFrame:
    """The rows of one pair of values."""
    variants = list(dict.fromkeys(column.variant for column in columns))
    counts = {name: _both(columns, name, value, against) for name in variants}
    shown = [name for name in variants if counts[name]]
    if not shown:
        return pd.DataFrame(columns=list(PAIR))
    names = [f"{i}" for i in range(len(columns))]
    table = pd.DataFrame(dict(zip(names, columns.values(), strict=True)))
    place = dict(zip(columns, names, strict=True))
    groups = [variants.index(column.variant) for column in columns]
    effects = differences(table, [(place[Column(name, value)], place[Column(name, against)]) for name in shown])

    def judged(contrasts: np.ndarray) -> pd.DataFrame:
        return judge(table, contrasts, margin=margin, looks=looks, groups=groups)

    rows = judged(effects).assign(variant=shown, n=[counts[name] for name in shown])
    if len(shown) > 1:
        beyond = judged(effects[1:] - effects[0]).rename(columns=BEYOND).set_axis(range(1, len(shown)))
        mean = judged(effects.mean(axis=0, keepdims=True)).assign(variant=ALL, n=min(counts[name] for name in shown))
        rows = pd.concat([rows.join(beyond[list(BEYOND.values())]), mean], ignore_index=True)
    rows["verdict"] = rows["verdict"].where(rows["low"].notna(), "")
    return rows.assign(value=value, against=against)


def _both(columns: dict[Column, pd.Series], variant: str, value: str, against: str) -> int:
    """The number of seeds for which a variant has both values."""
    pair = [columns.get(Column(variant, name)) for name in (value, against)]
    return 0 if pair[0] is None or pair[1] is None else int((pair[0].notna() & pair[1].notna()).sum())

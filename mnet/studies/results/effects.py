"""What one option does within every variant of a study: its values against each other, all else equal, seed by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mnet.errors import text, unknown
from mnet.studies.options import cell_name
from mnet.studies.results.statistics import ROUNDING, holm, t_test, verdict
from mnet.studies.study import Study

ALL = "all"
"""The row of the mean over the variants."""

COLUMNS = (
    *("study", "variant", "value", "against", "n", "delta", "low", "high", "p", "p_holm", "verdict"),
    *("beyond", "beyond_low", "beyond_high", "beyond_p_holm"),
)


def effects_table(study: Study, runs: pd.DataFrame, option: str, margin: float | None = None) -> pd.DataFrame:
    """Each value of an option minus each earlier one, within each variant (the other options), paired by seed.

    Args:
        study: It varies `option`.
        runs: Of `results.runs_table`.
        option: One of `study.varied`.
        margin: Of `verdict`.

    Returns:
        One row a variant and pair of values, and one named `ALL`: the mean over the variants, over the seeds that all
        of them have. `delta` in points, of top-1 or what else the task compares, with its 95% t interval; `p_holm` is
        Holm's over the variants of a pair. `beyond`: the delta minus that of the first variant, with its interval, and
        Holm's p over the others.

    Raises:
        ConfigError: The study does not vary `option`.
    """
    if option not in study.varied:
        raise unknown("option that the study varies", option, study.varied)
    metric = study.task.headline.name
    found: dict[str, dict[str, pd.Series]] = {}
    for cell in study.cells:
        rest = {name: value for name, value in cell.options.items() if name != option}
        variant = cell_name(rest) if rest else cell.trials[0].model
        own = runs[runs["cell"] == cell.name]
        found.setdefault(variant, {})[text(cell.options[option])] = own.set_index("seed")[metric].astype(float)
    values = list(dict.fromkeys(text(cell.options[option]) for cell in study.cells))
    pairs = [(value, against) for against, value in itertools.combinations(values, 2)]
    tables = [effects_of(value, against, found, margin) for value, against in pairs]
    return pd.concat(tables, ignore_index=True).assign(study=study.name).reindex(columns=COLUMNS)


def effects_of(
    value: str, against: str, found: Mapping[str, Mapping[str, pd.Series]], margin: float | None
) -> pd.DataFrame:
    """The rows of one pair of values: variant -> value -> the metric by seed."""
    deltas = {
        variant: (tops[value] - tops[against]).dropna()
        for variant, tops in found.items()
        if value in tops and against in tops
    }
    deltas = {variant: delta for variant, delta in deltas.items() if len(delta)}
    first = next(iter(deltas.values()), pd.Series(dtype=float))
    beyond = {variant: (delta - first).dropna() for variant, delta in list(deltas.items())[1:]}
    rows = [
        {"variant": variant, "value": value, "against": against, **estimate(delta)}
        | {f"beyond_{name}".removesuffix("_delta"): number for name, number in estimate(beyond.get(variant)).items()}
        for variant, delta in deltas.items()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS[1:9], *COLUMNS[11:14], "beyond_p"])
    table["p_holm"] = holm(table["p"].to_numpy(float))
    table["beyond_p_holm"] = holm(table["beyond_p"].to_numpy(float))
    if len(deltas) > 1:
        mean = estimate(pd.DataFrame(deltas).dropna().mean(axis=1))
        table.loc[len(table)] = pd.Series(
            {"variant": ALL, "value": value, "against": against, **mean, "p_holm": mean["p"]}
        )
    known = table[["low", "high", "p_holm"]].to_numpy(float)
    table["verdict"] = ["" if math.isnan(low) else verdict(low, high, p, margin) for low, high, p in known]
    return table.astype({"n": int})


def estimate(deltas: pd.Series | None) -> dict[str, float]:
    """n, mean, interval and p of differences, one a seed; nan where there is none."""
    values = np.array([]) if deltas is None else deltas.to_numpy(float)
    low, high, p = t_test(values, rounding=100 * ROUNDING)  # of accuracies in percent
    return {"n": len(values), "delta": values.mean() if len(values) else math.nan, "low": low, "high": high, "p": p}
